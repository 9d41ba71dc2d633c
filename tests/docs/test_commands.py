"""The commands of the pages, typed as they stand there.

Every block marked `sh` is run, a page in one shell, in an empty folder; what a block prints is compared with the block marked
`text` that follows it, where `...` stands for anything. Ports become free ones, and the paths of a box get a folder before them.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import tool

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "dashboards").rglob("*.md")]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TIMEOUT_S = 300.0
"""The longest page installs forty packages."""

NOT_RUN = {
    "make ": "runs these very tests, or prepares a clone of its own: .ci/run does it",
    "uv pip compile": "resolves everything anew over the network; make lock does the same",
    "curl -sN": "follows for ever",
    "fangkong walk-test verify": "says no of a sheet that was never accepted: tests/gateway/test_commissioning.py",
    "fangkong device claim": "takes a device that a running gateway has heard",
}
"""Commands by their beginning, and why no test types them."""

STUBS = {
    "apt": "exit 0",
    "chown": "exit 0",
    "useradd": "exit 0",
    "userdel": "exit 0",
    "runuser": 'shift 3; exec "$@"',
    "install": 'for each; do shift; case $each in -o|-g) skip=1;; *) [ "$skip" ] && skip= || set -- "$@" "$each";; esac; done; '
    'exec /usr/bin/install "$@"',
    "systemctl": 'case "$*" in *mosquitto*) exit 0;; esac\n'
    'case "$1" in stop|disable|restart) if [ -f "$BOX/pid" ]; then kill $(cat "$BOX/pid"); '
    'while kill -0 $(cat "$BOX/pid") 2>/dev/null; do sleep 0.1; done; rm "$BOX/pid"; fi;; esac\n'
    'case "$1" in start|enable|restart) '
    '"$BOX/opt/fangkong/venv/bin/python" -m gateway run --config "$BOX/etc/fangkong/site.toml" >"$BOX/log" 2>&1 & '
    'echo $! >"$BOX/pid"; curl -s -o "$BOX/ready" --retry 30 --retry-delay 1 --retry-connrefused $API/readyz;; esac',
    "fangkong": 'if [ -x "$BOX/usr/local/bin/fangkong" ]; then program="$BOX/usr/local/bin/fangkong"; '
    'else program="$PYTHON -m gateway"; export PYTHONPATH="$REPOSITORY"; fi\n'
    'if [ "$1" != init ]; then exec $program "$@"; fi; $program "$@" && sed -i "$PORTS" "$BOX/etc/fangkong/site.toml"',
    "python": 'PYTHONPATH="$REPOSITORY" exec "$PYTHON" "$@"',
    "python3": 'exec "$PYTHON" "$@"',
}
"""What only root may do on a real box (apt, systemd, users) is stood for by what it would bring about; the rest is real."""

PORTS = ("1502", "1883", "4110", "4111", "4120", "4121", "8110")
BOX_PATH = re.compile(r"(?<![\w.$}])/(?=(?:etc|opt|var|usr|root)/)")
RUNNING_BOX = """\
mkdir -p /etc/fangkong && fangkong init --yes --dir /etc/fangkong > init.log
fangkong run --config /etc/fangkong/site.toml 2> gateway.log &
curl -s -o ready --retry 30 --retry-delay 1 --retry-connrefused http://127.0.0.1:8110/readyz
"""
A_TOWN = """\
touch site.toml
PYTHONPATH="$REPOSITORY" "$PYTHON" - <<'END'
import asyncio
from pathlib import Path
from gateway.registry import Registry
from tests.coverage.town import town
async def found():
    registry = await Registry.open(Path("var/registry.db"))
    await registry.record(town(7, 200))
    await registry.close()
asyncio.run(found())
END
fangkong area add fkq-1 --name 东关街道 --kind control_zone
"""
BEFORE = {
    "docs/api.md": RUNNING_BOX,
    "docs/access.md": "touch site.toml\n",
    "docs/commissioning.md": RUNNING_BOX,
    "docs/inventory.md": "touch site.toml\n",
    "docs/reports.md": A_TOWN,
    "docs/vehicles.md": "touch site.toml\n",
    "docs/driver-tutorial.md": 'cp -r "$REPOSITORY"/{gateway,drivers,simulators,tests,docs,pyproject.toml} .\n',
    "docs/install.md": "mkdir -p /usr/local/bin /etc/systemd/system /etc/prometheus /root/\n",
}
"""What a reader of the page has already."""
NEED_TOOLS = {
    "docs/simulators.md": ("socat", "mosquitto"),
    "docs/install.md": ("promtool", "mosquitto"),
    "docs/driver-tutorial.md": (),
}
"""Pages that need apt packages, or take longer."""


@dataclass(frozen=True)
class Block:
    """Commands, and the lines they must print."""

    commands: str
    expected: tuple[str, ...]


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    marked = BLOCK.findall(page.read_text(encoding="utf-8"))
    for index, (language, commands) in enumerate(marked):
        if language == "sh":
            follows = marked[index + 1] if index + 1 < len(marked) else ("", "")
            is_run = re.search(r"^(?!:$)", runnable(commands), re.MULTILINE)
            prints = follows[1].splitlines() if is_run and follows[0] == "text" else ()
            found.append(Block(commands, tuple(prints)))
    return found


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def runnable(commands: str) -> str:
    """Without what is on the list; a command over several lines is one."""
    lines = commands.replace("\\\n", " ").splitlines()
    return "\n".join(":" if line.startswith(tuple(NOT_RUN)) else line for line in lines)


def free_ports(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Desk:
    """A folder to type in, with stand-ins for what only root may do."""

    def __init__(self, folder: Path) -> None:
        self.box, self.here, self._bin = folder / "box", folder / "here", folder / "bin"
        for each in (self.box, self.here, self._bin):
            each.mkdir(exist_ok=True)
        for name, script in STUBS.items():
            (self._bin / name).write_text(f"#!/bin/bash\n{script}\n")
            (self._bin / name).chmod(0o755)
        self._port = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))

    def mine(self, text: str) -> str:
        """The page's text with the ports and paths of this desk."""
        text = re.sub(r"\b(" + "|".join(PORTS) + r")\b", lambda found: self._port[found[1]], text)
        return BOX_PATH.sub(f"{self.box}/", text).replace("tar -C / ", f"tar -C {self.box} ")

    def type(self, page: list[Block], before: str) -> list[str]:
        """What each block prints. Fails with everything that was said when a command fails."""
        marker = "\n=== end of block"
        script = "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n" + self.mine(before)
        script += "".join(f"{self.mine(runnable(block.commands))}\necho '{marker}'\n" for block in page)
        output = self.here.parent / "output"  # a file: what runs in the background would hold a pipe open
        with output.open("wb") as said:
            process = subprocess.Popen(
                ["/bin/bash", "-c", script],
                cwd=self.here, env=self._environment(), start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                code = process.wait(timeout=TIMEOUT_S)
            finally:
                with suppress(ProcessLookupError):  # what a page that failed left running
                    os.killpg(process.pid, signal.SIGTERM)
        printed = output.read_text(encoding="utf-8")
        assert code == 0, printed
        return printed.split(marker)

    def _environment(self) -> dict[str, str]:
        ports = "; ".join(f"s/:{port}\\b/:{mine}/" for port, mine in self._port.items())
        return {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "PATH": f"{self._bin}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8", "PYTHON": sys.executable,
            "REPOSITORY": str(ROOT), "BOX": str(self.box), "PORTS": ports,
            "API": f"http://127.0.0.1:{self._port['8110']}",
        }  # fmt: skip


def check_printed(expected: tuple[str, ...], printed: str) -> None:
    lines = iter(printed.splitlines())
    for wanted in expected:
        pattern = ".*".join(map(re.escape, wanted.split("...")))
        assert any(re.fullmatch(pattern, line.rstrip()) for line in lines), f"not printed:\n{wanted}\nbut:\n{printed}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name_of)
def test_no_page_hides_commands_from_this_test(page: Path) -> None:
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        assert language or not re.search(r"^(\$ |fangkong |python |curl |make )", text, re.MULTILINE), text


LIGHT = [page for page in PAGES if blocks(page) and name_of(page) not in NEED_TOOLS]


@pytest.mark.parametrize("page", LIGHT, ids=name_of)
def test_what_a_page_says_can_be_typed(page: Path, tmp_path: Path) -> None:
    type_page(page, tmp_path)


@pytest.mark.full
def test_the_worked_example_of_the_simulators(tmp_path: Path) -> None:
    type_page(ROOT / "docs" / "simulators.md", tmp_path)


@pytest.mark.full
def test_a_driver_tonight(tmp_path: Path) -> None:
    type_page(ROOT / "docs" / "driver-tutorial.md", tmp_path)


@pytest.mark.full
def test_a_box_is_installed_upgraded_saved_and_removed_as_the_page_says(tmp_path: Path) -> None:
    """From a wheel that holds every file of the packages, outside this folder."""
    here = tmp_path / "here"
    here.mkdir()
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", here, ROOT], check=True, cwd=tmp_path
    )
    (wheel,) = here.glob("*.whl")
    shipped = {
        str(path.relative_to(ROOT))
        for package in ("gateway", "drivers", "simulators", "dashboards")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert shipped - {*zipfile.ZipFile(wheel).namelist()} == set()

    for name in ("requirements.lock", "packaging/fangkong.service"):
        shutil.copy(ROOT / name, here)
    shutil.copytree(ROOT / "dashboards", here / "dashboards")
    type_page(ROOT / "docs" / "install.md", tmp_path)


def type_page(page: Path, folder: Path) -> None:
    for name in NEED_TOOLS.get(name_of(page), ()):
        tool(name)
    desk = Desk(folder)
    if rows := [text for language, text in BLOCK.findall(page.read_text(encoding="utf-8")) if language == "csv"]:
        (desk.here / "devices.csv").write_text(rows[0], encoding="utf-8")
    found = blocks(page)

    printed = desk.type(found, BEFORE.get(name_of(page), ""))

    for block, output in zip(found, printed, strict=False):
        check_printed(tuple(desk.mine(line) for line in block.expected), output)
