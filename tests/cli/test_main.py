"""Whatever command it is: no traceback for what a person can mend."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.__main__ import main


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["init", "--yes", "--dir", "file/below"], 1, "Not a directory 文件无法读写"),
        (["inventory", "sample", "no/town.csv"], 2, "no/town.csv: file: No such file or directory"),
        (
            ["inventory", "export", "folder.csv"],
            2,
            "folder.csv: file: Is a directory; expected a file that can be written",
        ),
        (["inventory", "export", "no/town.csv"], 2, "no/town.csv: file: No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_written_is_named(
    *,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "site.toml").touch()

    assert main(words) == code
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.new"))


def test_a_terminal_without_chinese_shows_something_else_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "site.toml").touch()
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "waiver", "list", "--config", str(tmp_path / "site.toml")],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"}, capture_output=True, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout, done.stderr) == (0, b"no waivers ????\n", b"")


def test_a_mistyped_kind_is_noted_for_nothing_would_be_asked_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.toml").touch()
    assert main(["site", "add", "s1", "--name", "a", "--account", "A001", "--kind", "bank_brnch"]) == 0
    point = ["--point", "p1", "--number", "1", "--point-kind", "counter_panic"]
    assert main(["device", "add", "d1", "--site", "s1", "--kind", "panic_buton", *point]) == 0

    said = capsys.readouterr().err.splitlines()
    assert [line.partition(". ")[2] for line in said] == [
        'did you mean "bank_branch"? 无此类别的要求',
        'did you mean "panic_button"? 无此类别的要求',
    ]
