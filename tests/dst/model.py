"""What must hold, whatever happens: the promises, checked from outside against what was said on the wire and to devices.

The model knows only three things: what a device was told, what left towards the centre and what came back, and what is
in the file. It reads the file with a connection of its own.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.forwarders import _outbox
from gateway.forwarders.dc09 import wants
from gateway.kinds import FACTS, Lane, Qualifier
from gateway.model import Event
from gateway.store.rows import SELECT_EVENT, event_of
from gateway.store.schema import connect
from gateway.store.sqlite import FILE_NAME
from tests.dst.centre import Frame

DESTINATION = "110"
OWN = f"destination/{DESTINATION}"
"""The device under whose name the forwarder reports its own faults."""

NOTICE_S = 1.5
"""From a commit to the next choice of what to send, on a disk that works: five reads, a commit under way, one more."""

SHARE_MIN = 10
"""A fault may overtake an alarm once in twenty sends; half of that is granted to broken connections, which choose in vain."""


@dataclass(slots=True)
class Stored:
    """One event as the file has it, and all that became of it."""

    event: Event
    since_s: float
    """When it was committed."""
    has_row: bool = False
    state: str = ""
    number: int | None = None
    account: str | None = None
    reason: str = ""
    first_frame: Frame | None = None
    sent_s: float | None = None
    """When it last left."""
    is_acked: bool = False
    """The centre's ACK for it has reached the gateway."""
    was_refused: bool = False
    """Its order is its own since: it was dead once, and offered again later."""
    is_decided: bool = False
    """The forwarder has handed its outcome to the store."""

    @property
    def condition(self) -> tuple[str, str, int | None]:
        return self.event.device, self.event.kind.value, self.event.zone

    @property
    def tag(self) -> str | None:
        return self.event.text


@dataclass(slots=True)
class Model:
    """Call its methods when something was said or done; it calls `fail` with the first broken promise."""

    fail: Callable[[str], None]
    time_s: Callable[[], float]
    events: dict[int, Stored] = field(default_factory=dict)
    by_id: dict[str, Stored] = field(default_factory=dict)
    by_tag: defaultdict[str, list[Stored]] = field(default_factory=lambda: defaultdict(list))
    told: set[str] = field(default_factory=set)
    """Tags of which a device was told that they are stored."""
    numbered: set[str] = field(default_factory=set)
    """Tags that carry their own key: never stored twice."""
    mergeable: set[str] = field(default_factory=set)
    """Tags that may be taken for a report which is still on its way from a line that is lost: their order is not kept."""
    frames: int = 0
    copies: int = 0
    troubled_s: float = 0.0
    """Until when the disk, the network or the process may have kept the forwarder from choosing well."""
    _numbers: dict[tuple[str, int], str] = field(default_factory=dict)
    _since_overtaking: int = SHARE_MIN
    _may_forget: bool = False
    _file: sqlite3.Connection | None = None

    # -- the file ------------------------------------------------------------------------------------------------------

    def watch(self, data_dir: Path) -> None:
        """A new life begins on these files: what was there must be there still."""
        self._file = connect(data_dir / FILE_NAME, read_only=True)
        if self._may_forget:
            self._forget_acceptances()
        have = {seq for (seq,) in self._file.execute("SELECT seq FROM events")}
        for seq, stored in self.events.items():
            if seq not in have:
                self.fail(f"event {seq} ({stored.tag}) was committed, and is gone after the restart")
            stored.is_decided = stored.state in {"accepted", "dead"}
        self.committed()

    def power_failed(self) -> None:
        """An acceptance that was not synced may be forgotten: then the event goes again, as the same."""
        self._may_forget = True

    def _forget_acceptances(self) -> None:
        assert self._file is not None
        for (seq,) in self._file.execute("SELECT seq FROM outbox WHERE state = 'queued'"):
            if self.events[seq].state == "accepted":
                self.events[seq].state, self.events[seq].was_refused = "queued", True
        self._may_forget = False

    def unwatch(self) -> None:
        """The life is over."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def committed(self) -> None:
        """Something was committed: look at all that changed."""
        assert self._file is not None
        newest = max(self.events, default=0)
        query = f"SELECT {SELECT_EVENT} FROM events e WHERE seq > ? ORDER BY seq"
        for row in self._file.execute(query, (newest,)).fetchall():
            self._stored(event_of(row))
        rows = self._file.execute("SELECT seq, state, account, number, reason FROM outbox").fetchall()
        for seq, state, account, number, reason in rows:
            self._row(self.events[seq], state, account, number, reason)
        for seq in range(newest + 1, max(self.events, default=0) + 1):
            self._has_its_row(self.events.get(seq))

    def _stored(self, event: Event) -> None:
        stored = Stored(event, self.time_s())
        self.events[event.seq] = self.by_id[event.id] = stored
        if event.device == OWN:
            return
        if stored.tag is None:
            self.fail(f"event {event.seq} is none that a device reported: {event}")
            return
        earlier = self.by_tag[stored.tag]
        earlier.append(stored)
        if len(earlier) > 1 and stored.tag in self.numbered:
            self.fail(f"{stored.tag} carries its own key, and is stored twice: {[each.event.seq for each in earlier]}")
        self._in_order_of_the_device(event, stored.tag)

    def _in_order_of_the_device(self, event: Event, tag: str) -> None:
        """What a device reports first is stored first, repeats aside."""
        if tag in self.mergeable:
            return
        number = int(tag.rpartition("/")[2])
        for later in range(number + 1, number + 10):
            for other in self.by_tag.get(f"{event.device}/{later}", ()):
                if len(self.by_tag[tag]) == 1:
                    self.fail(f"{tag} is stored behind {other.tag}, which the device reported after it")
            return

    def _has_its_row(self, stored: Stored | None) -> None:
        if stored is None:
            return
        event = stored.event
        is_tried_out = event.test and FACTS[event.kind].lane < Lane.STATUS  # an alarm in a walk test is told to nobody
        is_wanted = event.place is not None and wants(event) and not is_tried_out
        if is_wanted != stored.has_row:
            self.fail(f"event {event.seq} ({stored.tag}): row in the outbox {stored.has_row}, expected {is_wanted}")

    def _row(self, stored: Stored, state: str, account: str | None, number: int | None, reason: str) -> None:
        stored.has_row = True
        before = stored.state
        if (before, stored.number, stored.account) == (state, number, account):
            return
        where = f"event {stored.event.seq} ({stored.tag})"
        if state == "accepted" and not stored.is_acked:
            self.fail(f"{where} is marked accepted, and no ACK for it has come")
        if before == "accepted":
            self.fail(f"{where} was accepted, and is {state} now")
        if state == "dead" and number is None:
            stored.first_frame = None  # all numbers are taken: this one gave its up, and goes under another one day
        elif stored.number is not None and stored.number != number:
            self.fail(f"{where} had number {stored.number}, and has {number} now")
        if state == "dead":
            stored.was_refused = True
        stored.state, stored.number, stored.account, stored.reason = state, number, account, reason
        stored.is_decided = state != "queued"

    # -- the devices ---------------------------------------------------------------------------------------------------

    def acknowledged(self, tag: str) -> None:
        """A device was told that this is stored."""
        self.told.add(tag)
        if not self.by_tag.get(tag):
            self.fail(f"the device was told that {tag} is stored, and it is not")

    # -- the wire ------------------------------------------------------------------------------------------------------

    def decided(self, seqs: Sequence[int]) -> None:
        """The forwarder has told the store what became of these."""
        for seq in seqs:
            self.events[seq].is_decided = True

    def sent(self, frame: Frame) -> None:
        """These bytes leave now."""
        if frame.event_id is None:
            return
        self.frames += 1
        stored = self.by_id.get(frame.event_id)
        if stored is None:
            self.fail(f"{frame} leaves, and is not in the store")
            return
        self._is_itself(stored, frame)
        self._number_is_its_own(stored, frame)
        if stored.first_frame is None:
            self._is_next_of_its_source(stored)
        self._has_no_open_alarm(stored)
        self._is_most_urgent(stored)
        self.copies += stored.first_frame is not None
        stored.first_frame = stored.first_frame or frame
        stored.sent_s = self.time_s()

    def _is_itself(self, stored: Stored, frame: Frame) -> None:
        event, first = stored.event, stored.first_frame
        if event.place is None:
            self.fail(f"event {event.seq} is of a device nobody has claimed, and leaves: {frame}")
            return
        if frame.account != event.place.account:
            self.fail(f"event {event.seq} of account {event.place.account} leaves as {frame}")
        if first is not None and (first.account, first.number, first.data, first.occurred) != (
            frame.account, frame.number, frame.data, frame.occurred,
        ):  # fmt: skip
            self.fail(f"event {event.seq} went out as {first}, and again as {frame}")
        if stored.number != frame.number:
            self.fail(f"event {event.seq} leaves under number {frame.number}; on disk it has {stored.number}")
        if stored.state == "accepted":
            self.fail(f"event {event.seq} is accepted, and leaves again")

    def _number_is_its_own(self, stored: Stored, frame: Frame) -> None:
        assert frame.event_id is not None
        key = frame.account, frame.number
        before = self.by_id.get(self._numbers.get(key, frame.event_id))
        if before is not None and before is not stored and before.state != "accepted":
            self.fail(f"{frame}: its number is still that of event {before.event.seq}, which is {before.state}")
        self._numbers[key] = frame.event_id

    def _waits_before(self, stored: Stored) -> Iterator[Stored]:
        """Older rows that are still to be sent, as far as the forwarder can know."""
        for seq, other in self.events.items():
            if seq < stored.event.seq and other.state == "queued" and not other.is_decided:
                yield other

    def _is_next_of_its_source(self, stored: Stored) -> None:
        for other in self._waits_before(stored):
            is_same = (other.event.device, other.event.lane) == (stored.event.device, stored.event.lane)
            if is_same and not other.was_refused:
                self.fail(f"event {stored.event.seq} leaves before {other.event.seq} of the same source and lane")

    def _has_no_open_alarm(self, stored: Stored) -> None:
        """A restore goes when the centre has the alarm it ends."""
        if stored.event.qualifier is not Qualifier.RESTORE:
            return
        for seq, other in self.events.items():
            is_its_alarm = other.condition == stored.condition and other.event.qualifier is Qualifier.NEW
            if seq >= stored.event.seq or not is_its_alarm or not other.has_row or other.is_acked:
                continue
            if stored.event.lane <= Lane.ALARM or not other.is_decided:
                self.fail(f"restore {stored.event.seq} leaves; its alarm {seq} was not accepted ({other.state})")

    def _is_most_urgent(self, stored: Stored) -> None:
        """Nothing more urgent has been waiting long enough to be known, but for the share of the faults."""
        lane, now = stored.event.lane, self.time_s()
        self._since_overtaking += 1
        if now < self.troubled_s + NOTICE_S:
            return
        busy = {other.account for other in self.events.values() if other.sent_s is not None and not other.is_decided}
        for other in self.events.values():
            is_waiting = other.state == "queued" and not other.is_decided and not other.was_refused
            is_known = other.since_s < now - NOTICE_S and other.sent_s is None
            if not (is_waiting and is_known and other.event.lane < lane):
                continue
            if other.event.place is None or other.event.place.account in busy or self._waits_for_alarm(other):
                continue
            if not self._is_in_memory(other):
                continue
            if lane is Lane.FAULT and self._since_overtaking >= SHARE_MIN:
                self._since_overtaking = 0
                return
            self.fail(
                f"event {stored.event.seq} ({lane.name}) leaves while {other.event.seq} ({other.event.lane.name}) waits"
            )
            return

    def _is_in_memory(self, stored: Stored) -> bool:
        """Whether the bound on rows of its lane in memory leaves it room: half of it, then the rest is read."""
        seq, lane = stored.event.seq, stored.event.lane  # a row leaves it when its outcome is on disk
        older = [n for n, each in self.events.items() if n < seq and each.event.lane is lane and each.state == "queued"]
        return len(older) < _outbox.HELD_MAX // 2

    def _waits_for_alarm(self, stored: Stored) -> bool:
        return stored.event.qualifier is not Qualifier.NEW and any(
            other.condition == stored.condition and other.was_refused and not other.is_acked
            for other in self.events.values()
        )

    def answered(self, frame: Frame, token: str) -> None:
        """A true answer has reached the gateway."""
        if token == "NAK":
            self.disturbed(0.0)  # what is out goes again, whatever waits
        elif frame.event_id is not None and token in {"ACK", "RSP"}:
            self.by_id[frame.event_id].is_acked = True

    def disturbed(self, for_s: float) -> None:
        """So long the forwarder cannot be expected to know all that is stored."""
        self.troubled_s = max(self.troubled_s, self.time_s() + for_s)

    # -- the end -------------------------------------------------------------------------------------------------------

    def open_rows(self) -> list[Stored]:
        """What is still to be delivered: queued, or dead though it must not stay so."""
        return [each for each in self.events.values() if each.has_row and not _is_final(each)]

    def has_open_trouble(self) -> bool:
        """The forwarder's own fault stands."""
        own = [each.event.qualifier for each in self.events.values() if each.event.device == OWN]
        return bool(own) and own[-1] is not Qualifier.RESTORE


def _is_final(stored: Stored) -> bool:
    if stored.state == "dead":  # a person must look; what is urgent is offered again for ever
        return stored.event.lane > (Lane.ALARM if stored.reason == "refused: DUH" else Lane.FAULT)
    return stored.state == "accepted"
