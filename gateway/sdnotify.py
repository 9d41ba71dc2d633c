"""What systemd is told: ready, alive, stopping. One datagram each (sd_notify(3)); silent when nobody listens."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

STATUS_MAX_CHARS = 200
"""One line of `systemctl status`; also keeps a datagram far below the kernel's limit."""


class Notifier:
    """Speaks to the service manager that `environ` names. Never raises, never waits: an alarm must not wait for systemd."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path

    @classmethod
    def from_environment(cls) -> Notifier:
        """The one of this process."""
        return cls(os.environ)

    def ready(self) -> None:
        """Started: store open, listeners bound."""
        self._send("READY=1")

    def watchdog(self) -> None:
        """Alive. Called from the loop that does the work, so that a loop that stands still is restarted."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send("STATUS=" + " ".join(text.split())[:STATUS_MAX_CHARS])

    def stopping(self) -> None:
        """Shutdown has begun."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # Whoever does not take the message finds out by the watchdog; there is nothing better to do here.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            sock.sendto(message.encode(), self._address)
