"""Silence is an alarm: when each device was last heard, by when it must be heard again, and who says so when it is not.

Deadlines are kept as wall times, so that a restart grants no new life, and watched on the monotonic clock, so that a
wall clock that jumps fires none of them.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, Protocol, get_args

from gateway.clock import Clock
from gateway.coverage.contracts import CONTRACTS, FIRST_WORD_S, Contract, window_s
from gateway.errors import StoreError
from gateway.kinds import Kind, Qualifier
from gateway.metrics import Metrics
from gateway.model import Device, Heard, Observation
from gateway.receipt import Receipt
from gateway.store import EventFilter, Store

State = Literal["heard", "silent", "unproven", "unclaimed"]
STATES: tuple[State, ...] = get_args(State)

TICK_S = 1.0
"""Longest wait between two looks at the deadlines: how late a silence may be noticed."""

TOGETHER_S = 0.2
"""Shortest wait between two looks: of 10 000 devices one comes due every 9 ms, and waking for each would cost more."""

STARTUP_GRACE_S = 30.0
"""After a start, and after a line came back, a passed deadline waits at most this long: the device could not reach us before."""

REACHES_US_S = 15.0
"""What a device needs after a start to reach us again: to dial, to be polled."""

LATE_SHARE = 0.05
"""So much later than its contract says a silence may be told, also when it ends just after a start."""

STALL_S = 5.0
"""Between two looks. After longer ones it was us who stood still (a stopped process, a frozen virtual machine): what the
devices said meanwhile waits at the lines, and passed deadlines wait for it as after a start."""

SAID_AT_ONCE = 250
"""Silences in one commit: when a town falls silent, ten thousand commits of their own would take a minute of the disk."""

FLUSH_SHARE = 0.05
"""A device's proof of life is written when 5 % of its window has passed since the last writing: what a crash may cost it."""

FLUSH_S = 5.0
"""How often what changed is written."""

BRIDGE_DOUBT_S = 30.0
"""How much longer a device behind a bridge is waited for: a bridge's last will is held for 20 s before it is reported, and
what is behind it must not be blamed meanwhile. Most of these devices have windows of hours."""

DOUBTS_AT_ONCE = 250
"""Bridges looked at in one look for what was called silent before them: each costs a read of the store."""

DEEPEST = 8
"""From a sensor to the gateway there are four; the ledger of people may name a circle."""

LOST = frozenset({Qualifier.NEW, Qualifier.UPDATE})

LIVES_MAX = 60_000
"""Devices kept in memory, claimed or not: beyond the registry's bound there is only noise."""


class Ledger(Protocol):
    """What the registry tells about devices."""

    def device(self, device_id: str) -> Device | None:
        """An enrolled device; None when nobody has claimed it."""

    def devices(self) -> Iterable[Device]:
        """Every enrolled device."""


@dataclass(slots=True)
class Life:
    """What is known of one device's proof of life."""

    within_s: float | None
    connection: str
    site: str | None
    """Of an enrolled device; None: nobody has claimed it."""
    driver_s: float | None = None
    """The window its driver says, also while the ledger or its kind says another."""
    heard_at: datetime | None = None
    heard_mono: float | None = None
    deadline_mono: float | None = None
    looked_at_mono: float | None = None
    """When the heap says to look at it; None: it is not in there."""
    silent: bool = False
    due_at: datetime | None = None
    """Its deadline from before the start, until it is heard or called silent."""
    written_mono: float = float("-inf")
    shown: tuple[str, State] | None = None
    """Site and state under which it is counted."""


class Lapse(NamedTuple):
    """A deadline that passed while the gateway was off, or too soon after it: nothing proves how the device was from then on."""

    device: str
    due_at: datetime


@dataclass(frozen=True, slots=True)
class DeviceHealth:
    """What readers see."""

    device: str
    state: State
    last_heard: datetime | None
    deadline: datetime | None


Report = Callable[[Sequence[Observation]], Awaitable[Receipt]]
Patience = Callable[[str, float | None], float | None]
"""How long a device may be unheard now, given its window. None: it cannot be supervised. Infinite: nobody minds now."""


class Health:
    """Watches the deadlines of all devices."""

    def __init__(
        self,
        *,
        store: Store,
        ledger: Ledger,
        clock: Clock,
        metrics: Metrics,
        report: Report,
        line_is_up: Callable[[str], bool],
        behind: Callable[[str, str], str | None],
        patience_s: Patience = lambda _, within_s: within_s,
        contracts: Mapping[str, Contract] = CONTRACTS,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._metrics = metrics
        self._report = report
        self._line_is_up = line_is_up
        self._patience_s = patience_s
        self._contracts = contracts
        self._behind = behind
        self._away: dict[str, float] = {}
        """When each bridge was last found to be away."""
        self._lives: dict[str, Life] = {}
        self._deadlines: list[tuple[float, str]] = []
        self._returned: set[str] = set()
        self._unwritten: set[str] = set()
        self._counts: Counter[tuple[str, State]] = Counter()
        self._recounted: set[str] = set()
        """Sites whose counts are to be shown anew."""
        self._lapses: list[Lapse] = []
        self._gone: list[str] = []
        """Found silent in this look, and not yet said."""
        self._doubted: defaultdict[str, set[str]] = defaultdict(set)
        """By what they are heard through, those called silent before anybody could know whether that one is lost."""
        self._flushed_mono = self._started_mono = clock.monotonic()

    # -- the hot path --------------------------------------------------------------------------------------------------

    def heard(self, device: str, connection: str, default_within_s: float | None) -> None:
        """Proof of life, now."""
        life = self._lives.get(device)
        if life is None:
            if len(self._lives) >= LIVES_MAX:
                return
            life = self._add(device, connection, default_within_s)
        elif life.heard_at is None or (life.heard_mono is None and default_within_s is not None):
            life.driver_s = default_within_s
            life.within_s = self._window(device, default_within_s)
        now = self._clock.monotonic()
        if life.heard_mono is None:
            life.heard_mono = now
            self._count(life)
        life.heard_mono = now
        life.heard_at = self._clock.now()
        life.connection = connection
        patience_s = self._patience_s(device, life.within_s)
        self._set_deadline(device, life, now + (math.inf if patience_s is None else patience_s))
        if life.silent:
            self._returned.add(device)
        if life.due_at is not None:
            self._lapsed(device, life)
        if now - life.written_mono >= (life.within_s or FLUSH_S) * FLUSH_SHARE:
            self._unwritten.add(device)

    def _set_deadline(self, device: str, life: Life, at: float) -> None:
        # One heap entry per device counts: one that is met too early is put back at the deadline that counts by then, one
        # that would be met too late is overtaken by another.
        life.deadline_mono = None if at == math.inf else at
        if at != math.inf and (life.looked_at_mono is None or at < life.looked_at_mono):
            heapq.heappush(self._deadlines, (at, device))
            life.looked_at_mono = at

    def _lapsed(self, device: str, life: Life) -> None:
        """It is known again how it is; was there a time when it was not?"""
        due_at, life.due_at = life.due_at, None
        is_gap = due_at is not None and self._clock.now() - due_at > timedelta(seconds=STARTUP_GRACE_S)
        if due_at is not None and life.site is not None and (life.silent or is_gap):
            self._lapses.append(Lapse(device, due_at))

    def lapses(self) -> Sequence[Lapse]:
        """Those found since the last call."""
        found, self._lapses = self._lapses, []
        return found

    def _add(self, device: str, connection: str, default_within_s: float | None) -> Life:
        known = self._ledger.device(device)
        site = known.site if known else None
        life = Life(self._window(device, default_within_s), connection, site, default_within_s)
        self._lives[device] = life
        self._count(life)
        return life

    def _count(self, life: Life) -> None:
        """Count it under its state, which may have changed."""
        now = life.site or "", state_of(life)
        if life.shown == now:
            return
        if life.shown is not None:
            self._counts[life.shown] -= 1
            self._recounted.add(life.shown[0])
        self._counts[now] += 1
        self._recounted.add(now[0])
        life.shown = now

    def _window(self, device: str, default_within_s: float | None) -> float | None:
        return window_s(self._ledger.device(device), default_within_s, self._contracts)

    # -- start and change ----------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Take up the deadlines as they were left. A passed one gets the start-up grace, not a new life."""
        now_wall, now = self._clock.now(), self._clock.monotonic()
        for row in await self._store.all_heard():
            life = self._add(row.device, row.connection, None)
            life.heard_at, life.silent = row.at, row.silent
            self._count(life)
            if row.deadline is None:
                continue
            left = (row.deadline - now_wall).total_seconds()
            # The driver's own window is known again once the device speaks; until then the old deadline counts.
            life.driver_s = (row.deadline - row.at).total_seconds() if row.at else FIRST_WORD_S
            life.within_s = self._window(row.device, life.driver_s)
            longest = life.within_s if life.within_s is not None else max(left, STARTUP_GRACE_S)
            self._set_deadline(row.device, life, now + max(grace_s(longest), min(left, longest)))
            if not life.silent:
                life.due_at = row.deadline
        self.ledger_changed()
        for device, life in self._lives.items():
            if life.silent:
                self._doubt(device, life)

    def ledger_changed(self) -> None:
        """Enrolled devices gain a deadline from the moment they are enrolled, heard or not."""
        enrolled = {device.id: device for device in self._ledger.devices()}
        for device_id, device in enrolled.items():
            life = self._lives.get(device_id) or self._add(device_id, "", None)
            life.site = device.site
            if life.driver_s is None and life.heard_at is None:
                life.driver_s = FIRST_WORD_S
            before_s, life.within_s = life.within_s, window_s(device, life.driver_s, self._contracts)
            if life.within_s is None:
                life.deadline_mono = None  # its silence says nothing, or no longer
            patience_s = self._patience_s(device_id, life.within_s)
            is_moved = life.deadline_mono is not None and life.within_s != before_s
            if patience_s is not None and (life.deadline_mono is None or patience_s == math.inf or is_moved):
                since = life.heard_mono if is_moved else None  # what it has owed since it spoke, not from today on
                self._set_deadline(device_id, life, (self._clock.monotonic() if since is None else since) + patience_s)
                self._unwritten.add(device_id)
        for device_id, life in self._lives.items():
            if device_id not in enrolled:
                life.site = None
            self._count(life)

    # -- the watch -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Watch the deadlines for ever."""
        looked_mono = self._clock.monotonic()
        while True:
            await self._clock.sleep(self._until_next())
            if self._clock.monotonic() - looked_mono > STALL_S:
                self._grant_grace()
            returned = sorted(self._returned)
            for start in range(0, len(returned), SAID_AT_ONCE):
                await self._returned_to_life(returned[start : start + SAID_AT_ONCE])
            await self._check_deadlines()
            if self._clock.monotonic() - self._flushed_mono >= FLUSH_S:
                await self._settle_doubts()
                await self.flush()
                self._show()
            looked_mono = self._clock.monotonic()

    def _grant_grace(self) -> None:
        now = self._clock.monotonic()
        for life in self._lives.values():
            if life.deadline_mono is not None and life.within_s is not None:
                life.deadline_mono = max(life.deadline_mono, now + grace_s(life.within_s))

    def _until_next(self) -> float:
        if not self._deadlines:
            return TICK_S
        return min(TICK_S, max(TOGETHER_S, self._deadlines[0][0] - self._clock.monotonic()))

    async def _check_deadlines(self) -> None:
        now = self._clock.monotonic()
        gone = self._gone
        while self._deadlines and self._deadlines[0][0] <= now:
            at, device = heapq.heappop(self._deadlines)
            life = self._lives[device]
            if at != life.looked_at_mono:
                continue
            life.looked_at_mono = None
            if life.deadline_mono is None:
                continue
            if life.deadline_mono > now:
                self._set_deadline(device, life, life.deadline_mono)
            elif life.connection and not self._line_is_up(life.connection):
                # Its line is down and says so itself, once; the device is not to blame before the line is back.
                life.due_at = None
                self._set_deadline(device, life, now + STARTUP_GRACE_S)
            elif (later := await self._while_its_bridge_is_away(device, life, now)) is not None:
                life.due_at = None
                self._set_deadline(device, life, later)
            else:
                life.deadline_mono = None
                if life.site is not None and not life.silent:
                    gone.append(device)
            if len(gone) == SAID_AT_ONCE:
                await self._gone_silent(gone)
                gone.clear()
        await self._gone_silent(gone)
        gone.clear()

    async def _while_its_bridge_is_away(self, device: str, life: Life, now: float) -> float | None:
        """When to look again at a device that could not be heard because its bridge is, or was, away; None: it could.

        The bridge's loss is one event of its own. What is behind it is unknown until it is back, and then has its whole
        window to be heard: most radio devices speak once an hour.
        """
        bridge, parent = self._bridge_of(device, life), self._parent_of(device)
        if bridge is None:
            return None
        within_s = life.within_s or 0
        if await self._is_away(bridge, life, now, is_known=parent is None):
            return self._unproven_behind(bridge, life, now)
        back = self._away.get(bridge, -math.inf) + STARTUP_GRACE_S  # at the latest: so often we look
        own_end = self._started_mono if life.heard_mono is None else life.heard_mono + within_s
        due = max(back + within_s, own_end + (0.0 if parent else BRIDGE_DOUBT_S))
        if due <= now and life.heard_mono is not None:
            due = self._due_with(bridge, life, latest=own_end + within_s * LATE_SHARE) or due
        return due if due > now else None

    def _due_with(self, bridge: str, life: Life, *, latest: float) -> float | None:
        """When the bridge falls due, if that is so soon that nobody is told too late by waiting for it."""
        above = self._lives.get(bridge)
        if above is None or above.deadline_mono is None or _spoke_after(above, life):
            return None
        return above.deadline_mono if above.deadline_mono <= latest else None

    def _parent_of(self, device: str) -> str | None:
        known = self._ledger.device(device)
        return (known.parent or None) if known else None

    def _bridge_of(self, device: str, life: Life) -> str | None:
        """What it is heard through alone: what people wrote comes before what its driver knows."""
        return self._parent_of(device) or (self._behind(life.connection, device) if life.connection else None)

    def _unproven_behind(self, bridge: str, life: Life, now: float) -> float:
        """Nobody can say how it is while its bridge is away. When to look again."""
        self._away[bridge] = now
        life.heard_mono = None
        self._count(life)
        return now + STARTUP_GRACE_S

    async def _is_away(self, bridge: str, life: Life, now: float, *, is_known: bool) -> bool:
        """Reported lost, or about to be: nothing has come through it since the device's own last word."""
        if bridge in self._gone:
            return True
        above = self._lives.get(bridge)
        if above is not None and above.site is not None and above.deadline_mono is not None:
            if above.deadline_mono <= now:
                return True  # told in this look, unless its own bridge is away
            # A driver knows that nothing comes around its bridge; what people call a parent may speak once a day.
            if is_known and above.heard_at and life.heard_at and above.heard_at <= life.heard_at:
                return True
        try:
            latest = await self._store.latest(bridge)
        except StoreError:
            return True  # nobody knows; looked at again
        return any(latest.get((kind, None)) in LOST for kind in (Kind.COMM_FAULT, Kind.SILENT))

    def _doubt(self, device: str, life: Life) -> None:
        """It is called silent. What it is heard through may owe its next word later, and be lost all the same."""
        bridge = self._bridge_of(device, life)
        above = self._lives.get(bridge) if bridge else None
        if bridge and above is not None and not _spoke_after(above, life):
            self._doubted[bridge].add(device)

    async def _settle_doubts(self) -> None:
        """What fell due before its bridge, which is lost, was not silent itself: that ends, and it is unproven as all behind it.

        No alarm waits for this. Nobody is doubted for longer than the bridge's contract: until then it is heard, or lost."""
        for bridge in list(self._doubted)[:DOUBTS_AT_ONCE]:
            devices, above = self._doubted.pop(bridge), self._lives[bridge]
            devices = {
                each for each in devices if self._lives[each].silent and not _spoke_after(above, self._lives[each])
            }
            if devices and await self._is_lost(bridge):
                excused = sorted(devices)[:SAID_AT_ONCE]
                if await self._excuse(bridge, excused):
                    devices.difference_update(excused)
            elif above.deadline_mono is None:
                continue  # its silence says nothing
            if devices:
                self._doubted[bridge] = devices  # the others first

    async def _is_lost(self, device: str) -> bool:
        """It has been told of this one, or of what it is itself heard through."""
        above: str | None = device
        for _ in range(DEEPEST):
            life = self._lives.get(above) if above else None
            if above is None or life is None:
                return False
            try:
                if life.silent or (await self._store.latest(above)).get((Kind.COMM_FAULT, None)) in LOST:
                    return True
            except StoreError:
                return False  # nobody knows; looked at again
            above = self._bridge_of(above, life)
        return False

    async def _excuse(self, bridge: str, devices: Sequence[str]) -> bool:
        if not await self._say(devices, Qualifier.RESTORE, via=bridge):
            return False
        now = self._clock.monotonic()
        for device in devices:
            life = self._lives[device]
            life.silent = False
            self._unwritten.add(device)
            if device in self._returned:  # heard while this was written
                self._returned.discard(device)
                self._count(life)
            else:
                self._set_deadline(device, life, self._unproven_behind(bridge, life, now))
        return True

    async def _gone_silent(self, devices: Sequence[str]) -> None:
        is_said = await self._say(devices, Qualifier.NEW)
        for device in devices:
            life = self._lives[device]
            if is_said:
                life.silent = True
                self._lapsed(device, life)
                self._doubt(device, life)
                self._count(life)
                self._unwritten.add(device)
            else:
                self._set_deadline(device, life, self._clock.monotonic() + TICK_S)

    async def _returned_to_life(self, devices: Sequence[str]) -> None:
        if await self._say(devices, Qualifier.RESTORE):
            for device in devices:
                life = self._lives[device]
                life.silent = False
                self._count(life)
                self._returned.discard(device)
                self._unwritten.add(device)

    async def _say(self, devices: Sequence[str], qualifier: Qualifier, *, via: str = "") -> bool:
        """Report the change of each once, all in one commit."""
        try:
            words = [await self._word(device, qualifier, via) for device in devices]
            if said := [word for word in words if word is not None]:
                await (await self._report(said))
        except StoreError:
            return False  # tried again at the next look; the store reports its own state
        return True

    async def _word(self, device: str, qualifier: Qualifier, via: str) -> Observation | None:
        """What is to be said; None when it is known, also when a crash came between the event and our own record of it."""
        life, latest = self._lives[device], await self._store.latest(device)
        told = latest.get((Kind.SILENT, None))
        if told is qualifier or (told is None and qualifier is Qualifier.RESTORE):
            return None
        is_unreachable = latest.get((Kind.COMM_FAULT, None)) in LOST
        if qualifier is Qualifier.NEW and is_unreachable and not await self._heard_since_its_fault(device, life):
            return None  # its driver has said so already: one cause, one event
        last = life.heard_at.isoformat(timespec="seconds") if life.heard_at else None
        values = {"last_heard": last, "within_s": life.within_s} | ({"via": via} if via else {})
        return Observation(device, Kind.SILENT, qualifier, values=values)

    async def _heard_since_its_fault(self, device: str, life: Life) -> bool:
        """A last will that came late is contradicted by nobody: who spoke after it and fell silent did so anew."""
        wanted = EventFilter(device=device, kind=Kind.COMM_FAULT)
        newest = await self._store.events(wanted, limit=1, newest_first=True)
        now = (
            self._clock.now()
        )  # a fault of the future: the clock went back, nobody knows, and twice is better than never
        return life.heard_at is not None and all(life.heard_at > f.received_at or f.received_at > now for f in newest)

    async def flush(self) -> None:
        """Write what changed."""
        now_wall, now = self._clock.now(), self._clock.monotonic()
        self._flushed_mono = now
        devices, self._unwritten = self._unwritten, set()
        rows = []
        for device in devices:
            life = self._lives[device]
            deadline = (
                now_wall + timedelta(seconds=life.deadline_mono - now) if life.deadline_mono is not None else None
            )
            rows.append(Heard(device, life.heard_at, deadline, life.silent, life.connection))
            life.written_mono = now
        if not rows:
            return
        try:
            await self._store.heard(rows)
        except StoreError:
            self._unwritten |= devices

    # -- readers -------------------------------------------------------------------------------------------------------

    def last_connection(self, device: str) -> str:
        """The line a device was last heard on, also before this start; "" when it never was."""
        life = self._lives.get(device)
        return life.connection if life else ""

    def last_heard(self, device: str) -> datetime | None:
        """When a device was last heard, also before this start; None when it never was, or is called silent since."""
        life = self._lives.get(device)
        return life.heard_at if life and not life.silent else None

    def states(self) -> Iterable[DeviceHealth]:
        """Every device, each as it stands when it is asked for: a reader may let others work in between."""
        for device, life in list(self._lives.items()):
            now_wall, now = self._clock.now(), self._clock.monotonic()
            deadline = (
                now_wall + timedelta(seconds=life.deadline_mono - now) if life.deadline_mono is not None else None
            )
            yield DeviceHealth(device, state_of(life), life.heard_at, deadline)

    def _show(self) -> None:
        """Only what has changed: a tick costs nothing for devices about which there is nothing to say."""
        for site in self._recounted:
            if not any(self._counts[site, state] for state in STATES):
                for state in STATES:
                    self._metrics.devices.remove(site, state)
                continue
            for state in STATES:  # zeros too: an alert can only watch a series that is there
                self._metrics.devices.labels(site, state).set(self._counts[site, state])
        self._recounted.clear()


def grace_s(within_s: float) -> float:
    """How long a passed deadline waits after a start. Where 5 % of the window is enough for a device to reach us, no longer: then
    no start delays a silence beyond what is promised."""
    late_s = within_s * LATE_SHARE
    return min(STARTUP_GRACE_S, late_s if late_s >= REACHES_US_S else within_s)


def _spoke_after(bridge: Life, life: Life) -> bool:
    """The bridge was heard when the other one should have been: then that one is silent itself."""
    if bridge.heard_at is None:
        return False
    return life.heard_at is None or bridge.heard_at > life.heard_at + timedelta(seconds=life.within_s or 0)


def state_of(life: Life) -> State:
    """The word for it."""
    if life.site is None:
        return "unclaimed"
    if life.silent:
        return "silent"
    return "heard" if life.heard_mono is not None else "unproven"
