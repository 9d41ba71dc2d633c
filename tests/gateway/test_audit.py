"""The record of who did what: written before the act, and whoever changes it by hand is found."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from gateway import audit
from gateway.access import GRANTS, Actor, Permission, Role
from gateway.audit import Audit, Deed, Head, rows, verify
from gateway.clock import RealClock
from gateway.errors import StoreError

LI = Actor("account:li", Role.DUTY_OFFICER, frozenset({"s1"}))


class DatedClock(RealClock):
    """A clock that shows what it is told to."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A record of seven rows."""
    path = tmp_path / "audit.db"
    record = Audit(path, RealClock())
    for number in range(1, 8):
        await record.record(LI, Deed.COMMAND, f"door-{number}", {"act": "open", "seconds": number})
    return path


def by_hand(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement)


def rehash(path: Path, seq: int) -> None:
    """What a careful forger does: make the row's own hash true again."""
    [row] = [row for row in rows(path) if row.seq == seq]
    by_hand(path, f"UPDATE audit SET hash = '{row.true_hash}' WHERE seq = {seq}")


async def test_a_record_says_who_did_what_and_is_whole(path: Path) -> None:
    newest = next(rows(path))

    assert (newest.seq, newest.actor, newest.role, newest.deed) == (7, "account:li", "duty_officer", "command")
    assert (newest.subject, json.loads(newest.details)) == ("door-7", {"act": "open", "seconds": 7})
    assert verify(path) == audit.Verdict(7, Head(7, newest.hash))
    assert path.stat().st_mode & 0o777 == 0o600
    assert [row.seq for row in rows(path, before=4, limit=2)] == [3, 2]


SWAP = (
    "UPDATE audit SET seq = 100 WHERE seq = 3",
    "UPDATE audit SET seq = 3 WHERE seq = 4",
    "UPDATE audit SET seq = 4 WHERE seq = 100",
)
INSERT = (
    "UPDATE audit SET seq = seq + 100 WHERE seq > 3", "UPDATE audit SET seq = seq - 99 WHERE seq > 100",
    "INSERT INTO audit SELECT 4, at, actor, role, deed, 'door-9', details, hash, hash FROM audit WHERE seq = 3",
)  # fmt: skip


@pytest.mark.parametrize(
    ("statements", "fault"),
    [
        *(((f"UPDATE audit SET {column} = 'x' WHERE seq = 3",), "row 3 was changed")
          for column in ("at", "actor", "role", "deed", "subject", "details", "previous", "hash")),
        (("UPDATE audit SET details = replace(details, 'open', 'lock') WHERE seq = 1",), "row 1 was changed"),
        (("DELETE FROM audit WHERE seq = 4",), "row 4 was removed"),
        (("DELETE FROM audit WHERE seq <= 2",), "row 1 was removed"),
        (("DELETE FROM audit WHERE seq = 4", "UPDATE audit SET seq = seq - 1 WHERE seq > 4"), "row 4 was changed"),
        (SWAP, "row 3 was changed"),
        (INSERT, "row 4 was changed"),
    ],
)  # fmt: skip
async def test_a_row_changed_removed_reordered_or_inserted_by_hand_is_named(
    path: Path, statements: tuple[str, ...], fault: str
) -> None:
    by_hand(path, *statements)

    assert verify(path).fault == fault


@pytest.mark.parametrize(
    ("forge", "fault"),
    [
        (lambda path: by_hand(path, "UPDATE audit SET actor = 'account:wang' WHERE seq = 3"), "row 4 does not follow row 3"),
        (lambda path: (by_hand(path, *SWAP), rehash(path, 4)), "row 3 does not follow row 2"),
        (lambda path: (by_hand(path, *INSERT), rehash(path, 4)), "row 5 was changed"),
    ],
)  # fmt: skip
async def test_a_forger_who_makes_the_hash_true_again_is_found_at_the_next_row(
    path: Path, forge: Callable[[Path], object], fault: str
) -> None:
    forge(path)
    rehash(path, 3)

    assert verify(path).fault.startswith(fault)


async def test_a_tail_that_was_cut_off_is_found_by_whoever_noted_the_head(path: Path) -> None:
    noted = verify(path).head
    by_hand(path, "DELETE FROM audit WHERE seq > 5")

    assert verify(path).fault == ""  # a chain alone cannot know
    assert verify(path, noted=(noted.seq, noted.mark)).fault.startswith("row 6 was removed, and all behind it")


async def test_a_record_that_was_written_anew_is_found_by_whoever_noted_the_head(path: Path, tmp_path: Path) -> None:
    noted = verify(path).head
    path.unlink()
    record = Audit(path, RealClock())
    for _ in range(9):
        await record.record(LI, Deed.COMMAND, "door-1")

    assert verify(path).fault == ""
    assert verify(path, noted=(noted.seq, noted.mark)).fault.startswith("row 7 is not the one that was noted")


@pytest.mark.parametrize("harm", ["DELETE FROM audit WHERE seq > 5", "DELETE FROM audit", "gone"])
async def test_the_running_gateway_sees_that_its_own_rows_are_gone(path: Path, harm: str) -> None:
    record = Audit(path, RealClock())
    await record.look()
    assert (record.head.seq, record.fault) == (7, "")
    if harm == "gone":
        path.unlink()
    else:
        by_hand(path, harm)
    await record.look()

    assert record.fault == "row 7, which was written, is gone or another"
    await record.record(LI, Deed.COMMAND, "door-1")  # and it goes on writing
    assert record.fault.startswith("row 7,")


async def test_two_processes_and_many_tasks_write_one_chain(path: Path) -> None:
    code = (
        "import asyncio, pathlib, sys; from gateway.audit import *; from gateway.clock import RealClock\n"
        "async def main():\n"
        "    record = Audit(pathlib.Path(sys.argv[1]), RealClock())\n"
        "    for n in range(30): await record.record(GATEWAY, Deed.TOKEN, str(n))\n"
        "asyncio.run(main())"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(path)])
    mine = Audit(path, RealClock())
    await asyncio.gather(*(mine.record(LI, Deed.COMMAND, str(number)) for number in range(30)))

    assert await asyncio.to_thread(other.wait, 60) == 0
    assert verify(path).fault == ""
    assert verify(path).rows == 67
    await mine.look()
    assert (mine.head, mine.fault) == (verify(path).head, "")


async def test_what_cannot_be_recorded_is_an_error_and_not_a_silence(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("no database at all, and longer than a header" * 40)
    for name in ("folder", "text", "text/audit.db"):
        with pytest.raises(StoreError, match="audit record"):
            await Audit(tmp_path / name, RealClock()).record(LI, Deed.COMMAND, "door-1")
    with pytest.raises(StoreError, match="audit record"):
        verify(tmp_path / "text")
    assert verify(tmp_path / "nothing").fault.startswith("there is no row")


async def test_what_the_disk_refused_at_the_end_is_not_missed_later(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "BUSY_TIMEOUT_S", 0.0)
    record = Audit(path, RealClock())
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT seq FROM audit").fetchone()
        with pytest.raises(StoreError, match="audit record"):  # the insert went well, the commit does not
            await record.record(LI, Deed.COMMAND, "door-1")
    await record.record(LI, Deed.COMMAND, "door-2")

    assert (record.head.seq, record.fault) == (8, "")
    assert next(rows(path)).subject == "door-2"


async def test_nobody_who_writes_waits_for_a_look_at_the_whole_record(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = audit._fault

    def writing(row: audit.Row, last: Head, noted: tuple[int, int] | None) -> str:
        with closing(sqlite3.connect(path, timeout=0.0, isolation_level=None)) as db:
            db.execute("BEGIN EXCLUSIVE")
            db.execute("ROLLBACK")
        return fault(row, last, noted)

    monkeypatch.setattr(audit, "_fault", writing)
    monkeypatch.setattr(audit, "PIECE", 3)

    assert verify(path) == audit.Verdict(7, Head(7, next(rows(path)).hash))


async def test_a_row_is_bounded(path: Path) -> None:
    record = Audit(path, RealClock())
    for subject, details in (("x" * (audit.SUBJECT_MAX + 1), {}), ("x", {"reason": "门" * audit.DETAILS_MAX_BYTES})):
        with pytest.raises(ValueError, match="enough"):
            await record.record(LI, Deed.COMMAND, subject, details)


async def test_old_rows_go_and_the_rest_still_proves_itself(path: Path) -> None:
    clock = DatedClock(RealClock().now() + audit.KEEP - timedelta(days=1))
    record = Audit(path, clock)
    for number in range(3):
        await record.record(LI, Deed.COMMAND, f"later-{number}")
    assert await record.prune() == 0
    clock.at += timedelta(days=2)

    assert await record.prune() == 7
    assert [row.seq for row in rows(path)] == [11, 10, 9, 8]
    assert next(rows(path)).deed == "pruned"
    assert verify(path).fault == ""
    assert verify(path, noted=(7, 1)).fault == "row 7, which was noted, is gone: row 8 is the first"
    await record.look()
    assert record.fault == ""
    by_hand(path, "DELETE FROM audit WHERE seq = 8")
    assert verify(path).fault == "row 1 was removed"  # a cut that no row speaks of


async def test_more_rows_than_there_is_room_for_go_from_the_front(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "ROWS_MAX", 4)
    record = Audit(path, RealClock())

    assert await record.prune() == 3
    assert await record.prune() == 1  # the row that said so was one more
    assert verify(path).fault == ""
    assert [row.seq for row in rows(path)] == [9, 8, 7, 6, 5]


def test_roles_grant_what_the_trade_expects_of_them() -> None:
    assert Permission.OPERATE not in GRANTS[Role.MAINTENANCE] | GRANTS[Role.AUDITOR]
    assert Permission.CONFIGURE not in GRANTS[Role.DUTY_OFFICER] | GRANTS[Role.MAINTENANCE] | GRANTS[Role.AUDITOR]
    assert set(GRANTS) == set(Role)
    assert (LI.sees("s1"), LI.sees("s2"), LI.sees(None)) == (True, False, False)
    assert Actor("box", Role.ADMINISTRATOR).sees(None)
