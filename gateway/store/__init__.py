"""The log of events and the outbox: what is on disk, and the only road to it.

A narrow set of methods, so that another database can stand behind it; `gateway.store.sqlite` is the first.
Every write joins the next group commit; a receipt settles after it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from gateway.acts import CommandRecord, CommandState
from gateway.kinds import Kind, Lane, Qualifier
from gateway.model import Delivery, DeliveryState, Event, Heard
from gateway.receipt import Receipt, Series

__all__ = ["Backlog", "Entry", "EventFilter", "Follower", "Rejected", "Resent", "Store", "StoreState", "Watch"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One event to keep, and who must get it. Written in one transaction."""

    event: Event
    destinations: Sequence[str] = ()
    numbered: Collection[str] = ()
    """Those destinations that give each event of an account a sequence number: where the queue is short, this event gets
    its own in the same transaction (`NUMBERED_AT_ONCE_MAX`), else at its first sending (`Store.number`)."""
    follows: str = ""
    """Id of the event, handed over before it at the same time, that this one follows from: not stored where that one is a
    repeat."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events a reader wants; None means any."""

    device: str | None = None
    site: str | None = None
    kind: Kind | None = None
    lane: Lane | None = None
    claimed: bool | None = None
    since: datetime | None = None
    until: datetime | None = None
    sites: tuple[str, ...] | None = None
    """None: also what belongs to no site."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A frame that was none, kept as it came (cut at `sqlite.RAW_MAX_BYTES`)."""

    at: datetime
    connection: str
    reason: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Backlog:
    """What one destination still has to get, by lane."""

    count: Mapping[Lane, int]
    oldest: Mapping[Lane, datetime]
    dead: int


@dataclass(frozen=True, slots=True)
class Resent:
    """Accepted rows that were to be sent once more."""

    queued: int
    busy: int
    """Left alone, because their number is at the moment another open row's: ask again when that one is through."""


@dataclass(slots=True)
class StoreState:
    """What health and metrics look at. Plain numbers, read at any time on the loop."""

    ok: bool = True
    error: str = ""
    """Why the last commit that failed did so; it may long be over."""
    failures: int = 0
    """Commits that failed by the disk. A single one may pass between two looks at `ok`, and is news all the same."""
    stored: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(Lane, 0))
    repeats: int = 0
    commits: int = 0
    shed: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(Lane, 0))
    size_bytes: int = 0
    budget_bytes: int = 0
    salvaged: str = ""
    """The name the last damaged file was set aside under since this start; "" when none was. May change at any time."""


class Follower(Protocol):
    """Who empties the queue of a destination. Called on the loop, after each commit that concerns it."""

    def committed(self, rows: Sequence[Delivery]) -> None:
        """These rows were added to the queue, in this order."""

    def requeued(self) -> None:
        """Rows are queued behind what was told (dead ones again, or those a failed commit has left): look from the front."""


class Watch(Protocol):
    """Woken when something was committed that may concern the watcher. No tick, no poll."""

    async def wait(self) -> None:
        """Return after the next commit, or at once when one happened since the last wait."""

    def close(self) -> None:
        """Stop watching."""


class Store(Protocol):
    """What the rest of the gateway may ask of the log. All awaitables run on the event loop."""

    state: StoreState

    async def append(self, entries: Sequence[Entry], *, series: Series | None = None) -> Receipt:
        """Queue for the next commit. Waits only while the bound on uncommitted entries is reached.

        Fails when an earlier call for the same series has failed.
        """

    async def reject(self, rejected: Rejected) -> None:
        """Keep a refused frame, the oldest of too many making room."""

    async def pending(self, destination: str, lane: Lane, *, after_seq: int, limit: int) -> Sequence[Delivery]:
        """Queued rows of one lane in the order they came, beyond `after_seq`."""

    async def number(self, destination: str, wanted: Mapping[str, Sequence[int]]) -> Mapping[int, int]:
        """The sequence number of each row wanted, by account. A row that has none gets its account's next (1..9999,
        wrapping, skipping numbers still open).

        Returns when they are on disk.
        """

    def accepted(self, destination: str, seqs: Sequence[int]) -> Awaitable[None]:
        """Mark rows as accepted by the far side; done when written.

        Does not hurry: what is not yet synced when the power fails is queued again, and sent again under its number.
        """

    def dead(self, destination: str, seq: int, reason: str) -> Awaitable[None]:
        """Set a row aside where people see it; done when on disk."""

    def requeue(self, destination: str, seqs: Sequence[int]) -> Awaitable[None]:
        """Queue dead rows again, under their old number; done when on disk."""

    async def resend(self, destination: str, since: datetime, until: datetime) -> Resent:
        """Queue what was accepted of the events received in this span again, under their old numbers."""

    async def deliveries(
        self,
        *,
        destination: str | None = None,
        state: DeliveryState | None = None,
        after_seq: int = 0,
        limit: int = 100,
    ) -> Sequence[Delivery]:
        """Outbox rows for people to look at, oldest first. A page never splits the rows of one event."""

    async def destinations(self) -> Collection[str]:
        """Who has rows that are queued or dead, whether or not anybody still delivers there."""

    async def backlog(self, destination: str) -> Backlog:
        """What still has to go there."""

    async def events(
        self, wanted: EventFilter, *, after_seq: int = 0, limit: int = 100, newest_first: bool = False
    ) -> Sequence[Event]:
        """A page of events. `after_seq` is the cursor: rows beyond it in the direction asked (0 = from that end)."""

    async def event(self, event_id: str) -> Event | None:
        """One event by its id."""

    async def latest(self, device: str) -> Mapping[tuple[Kind, int | None], Qualifier]:
        """The last qualifier per (kind, zone) that was stored for a device."""

    def heard(self, rows: Sequence[Heard]) -> Awaitable[None]:
        """Keep proofs of life and deadlines; done when on disk."""

    async def all_heard(self) -> Sequence[Heard]:
        """Every device ever heard, with its deadline as last kept."""

    async def rejected(self, *, limit: int = 100) -> Sequence[Rejected]:
        """The newest refused frames."""

    async def add_command(self, record: CommandRecord) -> CommandRecord:
        """Keep a new command, the oldest ended ones of too many making room. Returns the one that has the id: it, or the
        earlier one, which stays."""

    def save_commands(self, records: Sequence[CommandRecord]) -> Awaitable[None]:
        """Keep how far they have come; done when on disk."""

    async def command(self, command_id: str) -> CommandRecord | None:
        """One command by its id."""

    async def commands(
        self,
        *,
        device: str | None = None,
        states: Collection[CommandState] | None = None,
        sites: Collection[str] | None = None,
        before: int = 0,
        limit: int = 100,
    ) -> Sequence[CommandRecord]:
        """A page of commands, newest first, below the `n` given; None means any."""

    def correct_times(self, boot: str, by: timedelta) -> Awaitable[int]:
        """Move the time of arrival of events that came in this boot while the clock was not set. Returns how many."""

    async def prune(self, before: datetime, *, lane: Lane | None = None, kinds: Collection[Kind] = ()) -> int:
        """Remove all events, or those of a lane or of some kinds in it, older than `before` that no destination waits for, a few
        per commit. Without a lane also ended commands. Returns how many events.

        What came while the clock was not set has no age and stays.
        """

    def follow(self, destination: str, follower: Follower) -> Callable[[], None]:
        """Tell `follower` of each commit, until what is returned is called. One per destination."""

    def watch(self) -> Watch:
        """Be woken after commits."""

    async def close(self) -> None:
        """Commit what waits, close the files, let go of the directory."""
