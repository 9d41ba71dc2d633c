"""The sequence numbers of outbox rows: 1..9999 per destination and account, wrapping, none given to two open rows.

A row is open until it is accepted. The last number of each account is kept in the file, so that a number just used is
not used again after a restart; it is held in memory too, as only the writer changes it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence

from gateway.store.insert import Insert

NUMBER_MAX = 9999
"""DC-09 sequence numbers run 0001..9999 and wrap."""

NUMBERS = Insert("INSERT OR REPLACE INTO numbers", "destination, account, last")

_Account = tuple[str, str]


class Numbers:
    """Works inside the writer's transactions."""

    def __init__(self) -> None:
        self._last: dict[_Account, int] = {}
        self._changed: set[_Account] = set()
        self._is_loaded = False

    def forget(self) -> None:
        """What was given did not reach the file: take up again from what is there."""
        self._is_loaded = False

    def next(self, db: sqlite3.Connection, destination: str, account: str) -> int:
        """The number after the account's last. Whether it is free, the unique index of open numbers says at writing."""
        if not self._is_loaded:
            rows = db.execute("SELECT destination, account, last FROM numbers").fetchall()
            self._last = {(name, of): last for name, of, last in rows}
            self._changed.clear()
            self._is_loaded = True
        key = destination, account
        number = self._last[key] = self._last.get(key, 0) % NUMBER_MAX + 1
        self._changed.add(key)
        return number

    def next_free(self, db: sqlite3.Connection, destination: str, account: str) -> int:
        """The next number that no open row of the account has.

        When all are open, the oldest dead row gives up its number: what the receiver refused must not silence the
        account. Raises ValueError when all are queued.
        """
        for _ in range(NUMBER_MAX):
            number = self.next(db, destination, account)
            taken = db.execute(
                "SELECT 1 FROM outbox INDEXED BY outbox_open_numbers "
                "WHERE destination = ? AND account = ? AND number = ? AND state <> 'accepted'",
                (destination, account, number),
            ).fetchone()
            if not taken:
                return number
        number = _taken_from_dead(db, destination, account)
        self._last[destination, account] = number
        return number

    def save(self, db: sqlite3.Connection) -> None:
        """Write what `next` has changed; in the same transaction."""
        NUMBERS.rows(db, [(*key, self._last[key]) for key in self._changed])
        self._changed.clear()

    def take(self, db: sqlite3.Connection, destination: str, wanted: Mapping[str, Sequence[int]]) -> Mapping[int, int]:
        """The number of each wanted row, by account; those that have none get one.

        Raises ValueError for a row that is not there, and when all numbers of an account are queued.
        """
        account_of = {seq: account for account, seqs in wanted.items() for seq in seqs}
        numbers: dict[int, int | None] = dict(
            db.execute(
                "SELECT seq, number FROM outbox WHERE destination = ? AND seq IN (SELECT value FROM json_each(?))",
                (destination, json.dumps(list(account_of))),
            ).fetchall()
        )
        if missing := account_of.keys() - numbers.keys():
            raise ValueError(f"no outbox row {min(missing)} for {destination}")
        lacking = [seq for seq in account_of if numbers[seq] is None]
        if lacking:
            numbers.update(self._given(db, destination, {seq: account_of[seq] for seq in lacking}))
        return {seq: number for seq, number in numbers.items() if number is not None}

    def _given(self, db: sqlite3.Connection, destination: str, accounts: Mapping[int, str]) -> Mapping[int, int]:
        given = {seq: self.next(db, destination, account) for seq, account in accounts.items()}
        try:
            _write(db, destination, accounts, given)
        except sqlite3.IntegrityError:  # an account has come round to a number that is still open
            self.forget()
            for seq, account in accounts.items():
                given[seq] = self.next_free(db, destination, account)
                _write(db, destination, {seq: account}, given)
        self.save(db)
        return given


def _write(db: sqlite3.Connection, destination: str, accounts: Mapping[int, str], numbers: Mapping[int, int]) -> None:
    rows = [[seq, account, numbers[seq]] for seq, account in accounts.items()]
    # Materialized: else the rows of the whole destination are walked, and each looks for itself in the list.
    db.execute(
        "WITH n (value) AS MATERIALIZED (SELECT value FROM json_each(?)) "
        "UPDATE outbox SET account = n.value ->> 1, number = n.value ->> 2 FROM n "
        "WHERE outbox.destination = ? AND outbox.seq = n.value ->> 0",
        (json.dumps(rows), destination),
    )


def _taken_from_dead(db: sqlite3.Connection, destination: str, account: str) -> int:
    row = db.execute(
        "SELECT seq, number FROM outbox "
        "WHERE destination = ? AND account = ? AND number IS NOT NULL AND state = 'dead' ORDER BY seq LIMIT 1",
        (destination, account),
    ).fetchone()
    if row is None:
        raise ValueError(f"all {NUMBER_MAX} sequence numbers of account {account} towards {destination} are queued")
    db.execute("UPDATE outbox SET number = NULL WHERE destination = ? AND seq = ?", (destination, row[0]))
    return int(row[1])
