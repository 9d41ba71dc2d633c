"""Whose turn it is on the line, and how long an answer is waited for. No I/O; time is a parameter.

One request at a time. The living are asked in turn; between two rounds of them at most one silent reader is asked, for no
longer than this line's readers take to begin an answer. So the dead cost the living less than 50 ms, however many there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from drivers.osdp.meaning import Keys, Known
from drivers.osdp.reader import Conversation, Heard
from drivers.osdp.settings import EVERY_S, Reader
from gateway.driver import Order, Receipt

REPLY_WITHIN_S = 0.25
"""The 200 ms a reader may take (clause 5.7), and what 9600 baud needs for our longest command."""
MARGIN_S = 0.01
"""Beyond the longest a reader has lately taken to begin an answer: what a busy adapter and loop add."""
LAG_MEMORY = 256
"""Answers, some ten seconds, in which a slow one is forgotten: a machine that was busy just now is busy."""
SHORT_BYTES = 16
"""A poll with its MAC: what the usual time to an answer is learned from."""
BYTE_S = 10 / 9600
"""Each byte more of a longer command, on the slowest usual line."""
LONG_PROBE_EVERY_S = 60.0
"""How often a silent reader is given REPLY_WITHIN_S all the same, in case it is slow rather than dead: 0.4 % of the time."""
SILENT_EVERY_S = 0.5
"""The longest gap between two questions to a silent reader: one that is plugged in again is back within a second."""
TROUBLE_EVERY_S = 2.0
"""Between two handshakes with a reader that fails them: somebody must come anyway."""
HANDSHAKE_MISSES_MAX = 3
"""After as many the session is begun anew; in service the last question is repeated instead, for its answer may be news."""
LOST_AFTER_S = 8.0
"""Unheard for as long a reader is offline, and has itself given up its session (clause 5.7)."""


@dataclass(slots=True)
class Member:
    """One reader on the line and what is known of it. Seconds are monotonic."""

    reader: Reader
    talk: Conversation
    known: Known
    due_s: float
    answered_s: float
    """Last answer of any kind."""
    served_s: float
    """Last answer in service."""
    keys: Keys = field(default_factory=Keys)
    misses: int = 0
    lag_s: float | None = None
    """The longest it has lately taken to begin the answer to a short command."""
    told_s: float = float("-inf")
    """When the gateway was last told that it lives."""
    orders: deque[Order] = field(default_factory=deque)
    asks: deque[tuple[bytes, Heard]] = field(default_factory=deque)
    """Questions of ours that follow from an answer, one or two."""
    order_s: float = 0.0
    """When the order that is on its way first left."""
    output_s: float = 0.0
    """When to look next whether the strike is still on."""
    receipt: Receipt | None = None
    """Of what it said last: until that is on disk it is not asked again, and so keeps it."""

    @property
    def is_free(self) -> bool:
        return self.receipt is None or self.receipt.is_settled

    @property
    def is_wanted(self) -> bool:
        return bool(self.orders or self.asks) and self.talk.is_free

    @property
    def is_joining(self) -> bool:
        """In the middle of a handshake that has not failed before."""
        return not (self.talk.is_new or self.talk.in_service or self.talk.trouble)

    def is_lost(self, now_s: float) -> bool:
        """Whether it counts as offline. One that answers and is not trusted has an event of its own."""
        return now_s - (self.answered_s if self.talk.trouble else self.served_s) >= LOST_AFTER_S


@dataclass(slots=True)
class Panel:
    """All readers of one line."""

    members: Sequence[Member]
    _since_probe: int = 0
    """Answers of the living since a silent one was last asked."""
    _was_joining: bool = False
    """Every other turn at most goes to handshakes: they are soon over, and nobody waits for the whole of one."""
    _long_probe_s: float = float("-inf")

    def next(self, now_s: float) -> Member | None:
        """Who is to be asked now; None: nobody yet."""
        ready = [member for member in self.members if member.is_free and (member.is_wanted or member.due_s <= now_s)]
        silent = [member for member in ready if member.misses]
        living = [member for member in ready if not member.misses]
        if silent and self._since_probe >= sum(not member.misses for member in self.members):
            self._since_probe, self._was_joining = 0, False
            return min(silent, key=lambda member: member.due_s)
        if not living:
            return None
        self._since_probe += 1
        joining = [] if self._was_joining else [member for member in living if member.is_joining]
        self._was_joining = bool(joining)
        return min(joining or living, key=lambda member: (not member.is_wanted, member.due_s))

    def wait_s(self, now_s: float) -> float:
        """How long nobody will be due, unless a receipt or an order comes."""
        dues = [member.due_s - now_s for member in self.members if member.is_free]
        return max(0.0, min(dues, default=EVERY_S))

    def patience_s(self, member: Member, size: int, now_s: float) -> float:
        """How long to wait for the first byte of the answer to a request of `size` bytes."""
        if member.misses == 0:
            return REPLY_WITHIN_S
        if now_s - self._long_probe_s >= LONG_PROBE_EVERY_S:
            self._long_probe_s = now_s
            return REPLY_WITHIN_S
        lags = [one.lag_s for one in self.members if one.lag_s is not None and (one is member or not one.misses)]
        lag_s = max(lags, default=REPLY_WITHIN_S)
        return min(REPLY_WITHIN_S, lag_s + MARGIN_S + max(0, size - SHORT_BYTES) * BYTE_S)

    def answered(self, member: Member, *, size: int, lag_s: float, asked_s: float, now_s: float) -> None:
        """It answered a request of `size` bytes, beginning `lag_s` after it."""
        member.misses = 0
        member.answered_s = now_s
        if size <= SHORT_BYTES:
            before_s = member.lag_s or 0.0
            member.lag_s = max(lag_s, before_s - (before_s - lag_s) / LAG_MEMORY)
        if member.talk.in_service:
            member.served_s = now_s
        is_refused = member.talk.trouble is not None and member.talk.is_new
        member.due_s = now_s + TROUBLE_EVERY_S if is_refused else now_s if member.is_joining else asked_s + EVERY_S

    def overheard(self, address: int, now_s: float) -> None:
        """An answer that was not waited for any more: its reader is slow, not dead."""
        for member in self.members:
            if member.reader.address == address and member.misses:
                member.misses, member.due_s = 0, now_s

    def missed(self, member: Member, *, now_s: float) -> None:
        """It did not, or not in a way that can be believed."""
        member.misses += 1
        member.due_s = now_s + min(SILENT_EVERY_S, EVERY_S * 2.0 ** min(member.misses - 1, 8))
        is_lost = now_s - member.answered_s >= LOST_AFTER_S
        if is_lost or (member.misses >= HANDSHAKE_MISSES_MAX and not member.talk.in_service):
            member.talk.restart()
