"""`fangkong driver new`: what it writes passes everything at once; it never writes over anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def fangkong(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command line, typed in this folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """As far as a new driver needs it: the tree by links, its folders for new files real."""
    for name in ("gateway", "pyproject.toml", "tests", "docs", "drivers", "simulators"):
        target = tmp_path / name
        if name in ("drivers", "simulators"):
            _copy_by_links(ROOT / name, target)
        elif name == "tests":
            _copy_by_links(ROOT / name, target, real=("vectors",))
        elif name == "docs":
            _copy_by_links(ROOT / name, target, real=("drivers",))
        else:
            target.symlink_to(ROOT / name)
    return tmp_path


def _copy_by_links(source: Path, target: Path, real: tuple[str, ...] = ()) -> None:
    target.mkdir()
    for entry in source.iterdir():
        if entry.name in real:
            _copy_by_links(entry, target / entry.name)
        elif entry.name != "__pycache__":
            (target / entry.name).symlink_to(entry)


def asked(name: str, folder: Path, *options: str, path: Path) -> subprocess.CompletedProcess[str]:
    """The questions of every driver, of this one."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_every_driver.py", "--driver", name, *options],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.full
def test_a_new_driver_in_the_tree_answers_every_question(clone: Path) -> None:
    made = fangkong("driver", "new", "panel9", folder=clone)
    assert made.returncode == 0, made.stderr
    written = {"drivers/panel9.py", "simulators/panel9.py", "tests/vectors/panel9.toml", "docs/drivers/panel9.md"}
    assert written <= set(made.stdout.splitlines())
    assert not any("__NAME__" in (clone / path).read_text() for path in written)

    done = asked("panel9", clone, path=clone)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "panel9-1" not in done.stdout  # nothing failed; what passed is told by number alone
    assert int(done.stdout.split(" passed")[0].split()[-1]) > 40


def test_a_new_driver_outside_answers_every_question(tmp_path: Path) -> None:
    made = fangkong("driver", "new", "panel9", "--into", str(tmp_path / "acme_alarms"), folder=tmp_path)
    assert made.returncode == 0, made.stderr

    done = asked("acme_alarms.panel9", ROOT, path=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    explained = subprocess.run(
        [sys.executable, "-m", "gateway", "explain", "acme_alarms.panel9",
         b"#PANEL12,9C1F,000017,BA,3*028E\r\n".hex()],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert '"kind": "burglary"' in explained.stdout, explained.stderr


def test_a_spoiled_driver_is_found_out(tmp_path: Path) -> None:
    """The questions are worth something: without its check the same driver takes a flipped bit for an event."""
    fangkong("driver", "new", "panel9", "--into", str(tmp_path / "acme_alarms"), folder=tmp_path)
    file = tmp_path / "acme_alarms" / "panel9.py"
    file.write_text(
        file.read_text().replace("if f\"{_check(','.join(fields)):04X}\" != stated:", "if stated == '0000':")
    )

    done = asked("acme_alarms.panel9", ROOT, "-k", "flipped", path=tmp_path)
    assert done.returncode == 1
    assert "test_no_flipped_bit_makes_another_event" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["Panel-9"], "expected lower case letters, digits and _"),
        (["class"], "expected lower case letters, digits and _"),
        (["panel9"], "this is no clone of the project"),
        (["panel9", "--into", "acme-alarms"], "a package's name has letters"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = fangkong("driver", "new", *arguments, folder=tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(tmp_path: Path) -> None:
    mine = tmp_path / "acme" / "panel9.toml"
    mine.parent.mkdir()
    mine.write_text("mine")
    done = fangkong("driver", "new", "panel9", "--into", "acme", folder=tmp_path)

    assert done.returncode == 2
    assert "there already: acme/panel9.toml" in done.stderr
    assert [path.name for path in mine.parent.iterdir()] == ["panel9.toml"]
    assert mine.read_text() == "mine"
