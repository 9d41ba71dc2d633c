"""What arrives on a real notification socket; the texts are those of sd_notify(3)."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.sdnotify import STATUS_MAX_CHARS, Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The receiving end, as systemd opens it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5)
        yield sock


def test_each_call_is_one_datagram(manager: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    notifier.ready()
    notifier.status("3 lines, 110 up")
    notifier.watchdog()
    notifier.stopping()

    received = [manager.recv(4096) for _ in range(4)]

    assert received == [b"READY=1", b"STATUS=3 lines, 110 up", b"WATCHDOG=1", b"STOPPING=1"]


def test_a_socket_in_the_abstract_namespace_is_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("")  # the kernel picks an abstract name
        sock.settimeout(5)
        name = sock.getsockname()
        Notifier({"NOTIFY_SOCKET": "@" + name[1:].decode()}).ready()

        assert sock.recv(4096) == b"READY=1"


def test_a_status_is_one_bounded_line_and_cannot_smuggle_another_message(manager: socket.socket) -> None:
    Notifier({"NOTIFY_SOCKET": manager.getsockname()}).status("a\nSTOPPING=1\n" + "报" * 1000)

    text = manager.recv(65536).decode()

    assert text.startswith("STATUS=a STOPPING=1 报")
    assert len(text) == len("STATUS=") + STATUS_MAX_CHARS


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nonexistent/notify"}])
def test_without_a_listener_nothing_happens(environ: dict[str, str]) -> None:
    Notifier(environ).ready()


def test_a_manager_that_does_not_read_holds_nobody_up(manager: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    for _ in range(10_000):  # far beyond net.unix.max_dgram_qlen
        notifier.watchdog()

    assert manager.recv(4096) == b"WATCHDOG=1"


def test_the_process_speaks_to_the_manager_its_environment_names(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
    Notifier.from_environment().ready()

    assert manager.recv(4096) == b"READY=1"
