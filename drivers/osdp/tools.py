"""`fangkong tool osdp`: scan, set-address, pair (docs/drivers/osdp.md)."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from drivers.osdp.bringup import Hindrance, Probe, new_key
from drivers.osdp.frame import BROADCAST
from drivers.osdp.secure import DEFAULT_KEY
from drivers.osdp.settings import key_of
from gateway.driver import Workbench

BAUDS = (9600, 19200, 38400, 57600, 115200, 230400)
ADDRESSES = range(BROADCAST)


def tools(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Put them on the command line."""
    scan = commands.add_parser("scan", help="who is on the line, at which baud rate and address")
    scan.add_argument("port", help="/dev/ttyUSB0, or a link without baud")
    scan.add_argument("--baud", type=int, action="append", choices=BAUDS, help="only this rate (may be repeated)")
    scan.add_argument("--to", type=int, default=ADDRESSES[-1], metavar="ADDRESS", help="the last to try (126)")
    scan.set_defaults(tool=_scan)
    move = commands.add_parser("set-address", help="give a reader another address")
    move.add_argument("port")
    move.add_argument("old", type=_address)
    move.add_argument("new", type=_address)
    move.add_argument("--baud", type=int, default=9600, choices=BAUDS, help="the rate it has and keeps (9600)")
    move.add_argument("--key-file", type=Path, help="its own key, when it is paired")
    move.set_defaults(tool=_move)
    pair = commands.add_parser("pair", help="give a reader a key of its own")
    pair.add_argument("port")
    pair.add_argument("address", type=_address)
    pair.add_argument("key_file", type=Path, help="is made, mode 0600; named in the site file afterwards")
    pair.add_argument("--baud", type=int, default=9600, choices=BAUDS)
    pair.add_argument("--install-key", type=Path, metavar="FILE", help="the key it has; else the default one")
    pair.set_defaults(tool=_pair)


def _address(text: str) -> int:
    if not text.isdecimal() or int(text) not in ADDRESSES:
        raise argparse.ArgumentTypeError(f"{text!r}: expected 0 to {ADDRESSES[-1]}")
    return int(text)


async def _scan(arguments: argparse.Namespace, bench: Workbench) -> int:
    count = 0
    for baud in arguments.baud or BAUDS:
        bench.say(f"{baud} baud ...")
        async with bench.open(arguments.port, baud) as link:
            probe = Probe(link, bench.clock)
            for address in ADDRESSES[: arguments.to + 1]:
                found = await probe.look(address)
                if found is not None:
                    count += 1
                    bench.say(f"  {found}")
    if not count:
        bench.say("nothing answers: check power, A and B (swap them), and that no gateway holds the port")
    return 0 if count else 1


async def _move(arguments: argparse.Namespace, bench: Workbench) -> int:
    async with bench.open(arguments.port, arguments.baud) as link:
        try:
            key = _read_key(arguments.key_file, bench) if arguments.key_file else None
            await Probe(link, bench.clock).move(arguments.old, arguments.new, arguments.baud, key)
        except Hindrance as hindrance:
            bench.say(str(hindrance))
            return 1
    bench.say(f"the reader answers at address {arguments.new} now")
    return 0


async def _pair(arguments: argparse.Namespace, bench: Workbench) -> int:
    key = new_key()
    async with bench.open(arguments.port, arguments.baud) as link:
        probe = Probe(link, bench.clock)
        try:
            install_key = _read_key(arguments.install_key, bench) if arguments.install_key else DEFAULT_KEY
            # Before the reader has it: a key that only the reader knows would make it scrap.
            _write_key(arguments.key_file, key)
            await probe.hand_over(arguments.address, install_key, key)
        except Hindrance as hindrance:
            bench.say(str(hindrance))
            if _holds(arguments.key_file, key):
                await _keep_or_remove(arguments, probe, key, bench)
            return 1
    bench.say(f"paired: address {arguments.address} has the key in {arguments.key_file}, and the default key is dead")
    return 0


async def _keep_or_remove(arguments: argparse.Namespace, probe: Probe, key: bytes, bench: Workbench) -> None:
    """The file stays only where the reader may have its key."""
    try:
        await probe.session(arguments.address, key)
    except Hindrance:
        arguments.key_file.unlink()
    else:
        bench.say(f"the reader has the key in {arguments.key_file} all the same: keep the file")


def _holds(path: Path, key: bytes) -> bool:
    return path.exists() and path.read_text(encoding="ascii").strip() == key.hex()


def _read_key(path: Path, bench: Workbench) -> bytes:
    key = key_of(bench.secret(path))
    if key is None:
        raise Hindrance(f"{path} holds no key: one line with 32 hex digits expected")
    return key


def _write_key(path: Path, key: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise Hindrance(f"{path}: {error.strerror}; expected a new file in a folder that is there") from error
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(key.hex() + "\n")
        file.flush()
        os.fsync(descriptor)
