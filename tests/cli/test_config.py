"""`fangkong config`: what a person types to change a running gateway, what it says, and what is on disk afterwards."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway import history
from gateway.__main__ import main
from gateway.clock import RealClock
from tests.stories.box import free_ports

PATIENCE_S = 30
LOOK_S = 0.02
PANEL = """\
[[connection]]
name = "{name}"
driver = "rf_serial"
link = "tcp-listen://127.0.0.1:{port}"
[connection.settings]
receiver = "rf-1"
profile = "kerui_ev1527"
"""

Said = tuple[int, str, str]


class Box:
    """A folder with a site file, and perhaps a gateway that runs on it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.site, self._capsys = folder / "site.toml", capsys
        self.api, self.port, self.other = free_ports(3)
        (folder / "token").touch(mode=0o600)
        (folder / "token").write_text("for-this-test-only\n")
        self.head = f'[gateway]\nname = "box"\n[api]\nlisten = "127.0.0.1:{self.api}"\ntoken_file = "token"\n'
        self.one = self.head + PANEL.format(name="one", port=self.port)
        self.two = self.one + PANEL.format(name="two", port=self.other)
        self.site.write_text(self.one)
        self.process: subprocess.Popen[bytes] | None = None

    def file(self, text: str) -> Path:
        """A file somewhere else, to be applied."""
        path = self.site.parent / "elsewhere" / "new.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    def config(self, verb: str, *words: object) -> Said:
        before = signal.getsignal(signal.SIGTERM)
        code = main(["config", verb, "--config", str(self.site), *map(str, words)])
        signal.signal(signal.SIGTERM, before)
        said = self._capsys.readouterr()
        return code, said.out, said.err

    def run(self) -> None:
        """Start the gateway; returns when it is ready."""
        command = [sys.executable, "-m", "gateway", "run", "--config", str(self.site)]
        with (self.site.parent / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)  # the log alone
        self.until(self._is_ready)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.api}/readyz", timeout=2):
                return True
        except OSError:
            return False

    def until(self, claim: Callable[[], bool]) -> None:
        clock = RealClock()
        deadline = clock.monotonic() + PATIENCE_S
        while not claim():
            threading.Event().wait(LOOK_S)  # between two looks at another process
            assert clock.monotonic() < deadline, (self.site.parent / "log").read_text()
            assert self.process is None or self.process.poll() is None, (self.site.parent / "log").read_text()

    def metric(self, name: str) -> float | None:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.api}/metrics", timeout=2) as answer:
            for row in answer.read().decode().splitlines():
                if row.startswith(f"fangkong_{name} "):
                    return float(row.rpartition(" ")[2])
        return None

    def history(self) -> list[tuple[int, str]]:
        rows = json.loads(self.config("history", "--json")[1])
        return [(row["number"], row["who"]) for row in rows]


@pytest.fixture
def box(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Box]:
    made = Box(tmp_path, capsys)
    yield made
    if made.process is not None:
        made.process.terminate()
        assert made.process.wait(PATIENCE_S) == 0


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 2).close()
    except ConnectionRefusedError:
        return False
    return True


def test_there_and_back_again(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "wang_li")
    box.run()
    new = box.file(box.two)

    code, out, err = box.config("diff", new)
    assert (code, err) == (0, "")
    assert '+name = "two"' in out
    assert out.splitlines()[-1] == "connection two: added 新增"

    code, out, err = box.config("apply", new)
    assert (code, err) == (0, "")
    assert out == f"connection two: added 新增\n{box.site}: in force 已生效\n"
    assert box.site.read_text() == box.two
    assert accepts(box.other)

    code, out, _ = box.config("apply")
    assert (code, out.splitlines()[0]) == (0, "nothing to stop or start 无需变更")

    assert box.config("rollback")[0] == 0
    assert box.site.read_text() == box.one
    assert not accepts(box.other)

    assert box.config("rollback", 2)[0] == 0
    assert box.site.read_text() == box.two
    assert box.history() == [(1, "start"), (2, "wang-li"), (3, "wang-li"), (4, "wang-li")]


@pytest.mark.row("I1")
def test_every_mistake_is_told_as_check_tells_it_and_nothing_is_touched(box: Box) -> None:
    box.run()
    bad = box.file(box.one.replace("kerui", "keroi").replace('name = "box"', 'nmae = "box"'))

    code, out, err = box.config("apply", bad)

    assert (code, out) == (2, "")
    assert [row.split(": ")[:2] for row in err.splitlines()] == [
        [f"{bad}:2", "gateway.nmae"],
        [f"{bad}:10", "connection.one.settings"],
    ]
    assert box.site.read_text() == box.one
    assert box.history() == [(1, "start")]
    code, out, _ = box.config("diff", bad, "--json")
    assert code == 2
    assert [problem["key"] for problem in json.loads(out)["problems"]] == ["gateway.nmae", "connection.one.settings"]


@pytest.mark.row("I1")
def test_a_port_that_is_taken_puts_the_old_file_back(box: Box) -> None:
    box.run()
    with socket.create_server(("127.0.0.1", box.other)):
        code, _, err = box.config("apply", box.file(box.two))

    assert code == 1
    assert err.startswith(f"{box.site}:16: connection.two.link: ")
    assert "已被占用" in err or "端口被占用" in err
    assert box.site.read_text() == box.one
    assert box.metric("config_last_reload_successful") == 1  # what is on disk is in force


def test_what_needs_a_restart_is_refused_before_anything_is_touched(box: Box) -> None:
    box.run()
    new = box.file(box.two.replace('name = "box"', 'name = "box-2"'))

    code, out, err = box.config("apply", new)

    assert (code, out) == (1, "")
    assert err.startswith(f"{new}:2: gateway.name: changes from box to box-2; expected the value in force")
    assert box.site.read_text() == box.one
    code, out, _ = box.config("diff", new)
    assert code == 1
    assert out.splitlines()[-1] == "needs a restart: gateway.name: changes from box to box-2 需要重启"
    assert box.metric('config_reloads_total{outcome="refused"}') == 0


def test_a_site_file_edited_in_place_stays_as_it_was_left(box: Box) -> None:
    box.run()
    box.site.write_text(box.one.replace("kerui", "keroi"))

    assert box.config("apply")[0] == 2
    assert "keroi" in box.site.read_text()
    assert box.config("rollback", 1)[0] == 0
    assert box.site.read_text() == box.one


def test_what_is_in_place_is_taken_without_being_written(box: Box) -> None:
    """The service may not write its own site file (ProtectSystem=strict), and `systemctl reload` runs inside it."""
    box.run()
    box.site.write_bytes(box.two.replace("\n", "\r\n").encode())
    before = box.site.stat()

    assert box.config("apply")[0] == 0
    assert accepts(box.other)
    assert (box.site.stat().st_ino, box.site.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_place_that_cannot_be_written_is_named(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(path: Path, content: bytes) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(history, "write_whole", read_only)
    code, _, err = box.config("apply", box.file(box.two))

    assert code == 2
    assert err.startswith(f"{box.site}: file: Read-only file system; expected a file and folder that may be written")


def test_there_is_a_way_back_from_a_file_that_is_no_toml(box: Box) -> None:
    box.site.write_text(box.one.replace('name = "box"', 'name = "box"\ndata_dir = "data"', 1))
    box.run()
    box.site.write_text(box.site.read_text() + "[[connection\n")

    code, _, err = box.config("apply")
    assert (code, "syntax" in err) == (2, True)
    assert box.config("rollback", 1)[0] == 0
    assert "[[connection\n" not in box.site.read_text()


def test_without_a_gateway_a_file_is_checked_and_put_in_place(box: Box) -> None:
    code, out, _ = box.config("apply", box.file(box.two))

    assert code == 0
    assert "no gateway runs: it counts from the next start" in out
    assert box.site.read_text() == box.two
    assert box.config("apply", box.file(box.two.replace("kerui", "keroi")))[0] == 2
    assert box.site.read_text() == box.two
    code, _, err = box.config("diff")
    assert (code, "no configuration was in force yet" in err) == (1, True)
    code, _, err = box.config("rollback")
    assert (code, "an earlier configuration is not there; expected one of none" in err) == (2, True)


def test_sighup_takes_the_site_file_and_says_so_in_log_and_metrics(box: Box) -> None:
    box.run()
    assert box.process is not None
    box.site.write_text(box.two)
    os.kill(box.process.pid, signal.SIGHUP)
    box.until(lambda: box.metric('config_reloads_total{outcome="applied"}') == 1)
    assert accepts(box.other)

    box.site.write_text("[gateway\n")
    os.kill(box.process.pid, signal.SIGHUP)
    box.until(lambda: box.metric('config_reloads_total{outcome="refused"}') == 1)

    assert box.metric("config_last_reload_successful") == 0
    log = [json.loads(row) for row in (box.site.parent / "log").read_text().splitlines()]
    (said,) = [row for row in log if row["event"] == "the configuration stays as it was"]
    assert said["who"] == "SIGHUP"
    assert said["problems"][0].startswith(f"{box.site}:1: syntax: ")
    assert accepts(box.port)
    assert [who for _, who in box.history()] == ["start", "SIGHUP"]


def test_a_gateway_that_does_not_answer_or_refuses_the_token_is_told(box: Box) -> None:
    box.run()
    token = box.site.parent / "token"
    token.write_text("another\n")
    code, _, err = box.config("apply", box.file(box.two))

    assert code == 1
    assert "401: send Authorization: Bearer TOKEN" in err
    assert box.site.read_text() == box.one


@pytest.mark.row("I2")
@pytest.mark.parametrize("killed", ["the command at once", "the command with the file in place", "both"])
def test_a_kill_in_the_middle_of_apply_leaves_a_site_file_that_can_be_started(box: Box, killed: str) -> None:
    """Either the old one or the new one, with the gateway alive on either; the next start takes what is there."""
    box.run()
    new = box.file(box.two)
    command = [sys.executable, "-m", "gateway", "config", "apply", str(new), "--config", str(box.site)]
    applying = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    box.until(lambda: applying.poll() is not None or box.site.read_text() == box.two or killed.endswith("once"))
    if killed == "both":
        assert box.process is not None
        os.kill(box.process.pid, signal.SIGKILL)
        box.process.wait()
    applying.kill()
    applying.wait()

    assert box.site.read_text() in (box.one, box.two)
    if killed == "both":
        box.run()
        assert accepts(box.other) is (box.site.read_text() == box.two)
    assert accepts(box.port)
