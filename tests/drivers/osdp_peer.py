"""A libosdp reader on a serial line. Run by the interpreter of an environment of its own, as libosdp and osdp install the
same package: `python osdp_peer.py PORT ADDRESS KEY_HEX`. Takes a line for each event on standard input, tells each command
that it obeys on standard output."""

from __future__ import annotations

import os
import sys
import time

import osdp

EVENTS = {
    "card": {
        "event": osdp.Event.CardRead,
        "reader_no": 0,
        "direction": 0,
        "format": osdp.CardFormat.Wiegand,
        "length": 26,
        "data": bytes.fromhex("94d2a780"),
    },
    "code": {"event": osdp.Event.KeyPress, "reader_no": 0, "data": b"1234#"},
    "tamper": {"event": osdp.Event.Status, "type": osdp.StatusReportType.Local, "report": b"\x01\x00"},
    "calm": {"event": osdp.Event.Status, "type": osdp.StatusReportType.Local, "report": b"\x00\x00"},
    "open": {"event": osdp.Event.Status, "type": osdp.StatusReportType.Input, "report": b"\x01\x00"},
}
CAPABILITIES = [
    (osdp.Capability.OutputControl, 1, 1),
    (osdp.Capability.ContactStatusMonitoring, 1, 2),
    (osdp.Capability.LEDControl, 1, 1),
    (osdp.Capability.AudibleControl, 1, 1),
    (osdp.Capability.CommunicationSecurity, 1, 1),
]


class Port(osdp.Channel):
    """A terminal in raw mode, made ready by whoever starts us."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)

    def read(self, max_bytes: int) -> bytes:
        try:
            return os.read(self._fd, max_bytes)
        except BlockingIOError:
            return b""

    def write(self, buf: bytes) -> int:
        return os.write(self._fd, buf)

    def flush(self) -> None:
        self.read(4096)


def main() -> None:
    """Be the reader until standard input ends."""
    path, address, key = sys.argv[1:]
    info = osdp.PDInfo(
        int(address),
        Port(path),
        scbk=bytes.fromhex(key) if key != "none" else None,
        flags=[osdp.LibFlag.EnforceSecure] if key != "none" else [osdp.LibFlag.InstallMode],
    )
    reader = osdp.PeripheralDevice(info, osdp.PDCapabilities(CAPABILITIES), log_level=osdp.LogLevel.Emergency)

    def obey(command: dict[str, object]) -> tuple[int, None]:
        if command["command"] != osdp.Command.Status:
            shown = {name: value.hex() if isinstance(value, bytes) else value for name, value in command.items()}
            print(shown, flush=True)
        return 0, None

    reader.set_command_handler(obey)
    os.set_blocking(0, False)
    print("ready", flush=True)
    waiting = b""
    was_secure = False
    while True:
        reader.ctx.refresh()
        if reader.is_sc_active() != was_secure:
            was_secure = not was_secure
            print("secure" if was_secure else "not secure", flush=True)
        try:
            if not (typed := os.read(0, 4096)):
                return
            *lines, waiting = (waiting + typed).split(b"\n")
            for line in lines:
                reader.ctx.submit_event(EVENTS[line.decode()])
        except BlockingIOError:
            pass
        time.sleep(0.001)  # noqa: TID251  # a process of its own, in real time


main()
