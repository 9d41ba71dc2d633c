"""Configurations that were in force: whole copies, a bounded number, and a site file that is never half written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest

from gateway.errors import ConfigError
from gateway.history import KEPT_MAX, History, write_whole

AT = datetime(2027, 1, 15, 8, 30, tzinfo=UTC)


def test_what_came_into_force_is_kept_with_time_and_person_and_the_same_is_kept_once(tmp_path: Path) -> None:
    history = History(tmp_path)
    for text, who in (("a = 1\n", "start"), ("a = 1\n", "SIGHUP"), ("a = 2 # 门\n", "li"), ("a = 1\n", "api")):
        history.keep(text, at=AT, who=who)

    kept = history.kept()

    assert [(each.number, each.at, each.who, each.text()) for each in kept] == [
        (1, AT, "start", "a = 1\n"),
        (2, AT, "li", "a = 2 # 门\n"),
        (3, AT, "api", "a = 1\n"),
    ]
    assert {each.path.stat().st_mode & 0o777 for each in kept} == {0o600}


def test_the_newest_are_kept(tmp_path: Path) -> None:
    history = History(tmp_path)
    for n in range(1, KEPT_MAX + 4):
        history.keep(f"a = {n}\n", at=AT, who="li")

    assert [each.number for each in history.kept()] == list(range(4, KEPT_MAX + 4))
    assert len(list((tmp_path / "config").iterdir())) == KEPT_MAX


def test_a_copy_that_was_changed_is_not_taken_for_what_was_in_force(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.keep("a = 1\n", at=AT, who="li")
    (kept,) = history.kept()
    kept.path.write_text("a = 2\n")

    with pytest.raises(ConfigError, match="its content is not the one of its name"):
        kept.text()


def test_a_file_that_is_replaced_keeps_its_mode_and_what_links_to_it(tmp_path: Path) -> None:
    (tmp_path / "real.toml").write_text("old")
    (tmp_path / "real.toml").chmod(0o640)
    (tmp_path / "site.toml").symlink_to("real.toml")

    write_whole(tmp_path / "site.toml", b"new")

    assert (tmp_path / "site.toml").is_symlink()
    assert (tmp_path / "real.toml").read_text() == "new"
    assert (tmp_path / "real.toml").stat().st_mode & 0o777 == 0o640


def test_a_kill_while_the_file_is_replaced_leaves_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    site, random = tmp_path / "site.toml", Random(24)
    old, new = b"a" * 200_000, b"b" * 200_000
    site.write_bytes(old)
    script = (
        "import sys, pathlib; from gateway.history import write_whole\n"
        "path, old, new = pathlib.Path(sys.argv[1]), b'a' * 200_000, b'b' * 200_000\n"
        "print('go', flush=True)\n"
        "while True: write_whole(path, new); write_whole(path, old)\n"
    )
    seen = set()
    for _ in range(12):
        writer = subprocess.Popen([sys.executable, "-c", script, str(site)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        for _ in range(random.randrange(2000)):
            seen.add(site.read_bytes() in (old, new))
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        seen.add(site.read_bytes() in (old, new))

    assert seen == {True}
