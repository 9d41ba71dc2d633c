"""Was anything delivered twice? Counts what a dispatcher would have seen, in bounded memory."""

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

# Three tables of this many entries are about 80 MB full; a night's backlog of a large gateway is far smaller.
MEMORY_MAX_EVENTS = 100_000
# Enough to start looking; the record has them all.
EXAMPLES_MAX = 20

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class _Memory(Generic[_Key, _Value]):
    """A mapping that forgets what was touched longest ago."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[_Key, _Value] = OrderedDict()
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: _Key) -> _Value | None:
        return self._entries.get(key)

    def put(self, key: _Key, value: _Value) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)
            self.forgotten += 1


@dataclass(frozen=True, slots=True)
class Sighting:
    """One event frame as the audit sees it."""

    key: str  # <account>/<seq>/<H>
    event_id: str | None
    content: tuple[str | int | None, ...]  # account, qualifier, code, group, zone, H, id
    has_occurrence: bool  # without H two presses of one button look alike, and are two events
    taken: bool  # we kept it, whatever became of the answer; false after NAK and DUH


@dataclass(frozen=True, slots=True)
class _Known:
    content: tuple[str | int | None, ...]
    taken: bool


class Audit:
    """Counts events taken, wire repeats, duplicates under a new key and keys used for two events."""

    def __init__(self, memory: int = MEMORY_MAX_EVENTS) -> None:
        self._keys: _Memory[str, _Known] = _Memory(memory)
        self._key_of_id: _Memory[str, str] = _Memory(memory)
        self._key_of_content: _Memory[tuple[str | int | None, ...], str] = _Memory(memory)
        self.accepted = 0
        self.wire_repeats = 0
        self.new_key_duplicates = 0
        self.reused_keys = 0
        self.examples: deque[dict[str, str | None]] = deque(maxlen=EXAMPLES_MAX)

    def see(self, sighting: Sighting) -> bool:
        """Count one event frame; true when its key was seen before."""
        known = self._keys.get(sighting.key)
        if known is not None:
            self.wire_repeats += 1
            if known.content != sighting.content:
                self.reused_keys += 1
                self._example("one key for two events", sighting, earlier_key=sighting.key)
        taken_before = known is not None and known.taken
        if sighting.taken and not taken_before:
            self._take(sighting)
        self._keys.put(sighting.key, _Known(sighting.content, sighting.taken or taken_before))
        return known is not None

    def _take(self, sighting: Sighting) -> None:
        self.accepted += 1
        earlier = self._key_of_id.get(sighting.event_id) if sighting.event_id else None
        if earlier is None and sighting.has_occurrence:
            earlier = self._key_of_content.get(sighting.content)
        if earlier is not None and earlier != sighting.key:
            self.new_key_duplicates += 1
            self._example("one event under two keys", sighting, earlier_key=earlier)
        if sighting.event_id:
            self._key_of_id.put(sighting.event_id, sighting.key)
        if sighting.has_occurrence:
            self._key_of_content.put(sighting.content, sighting.key)

    def _example(self, what: str, sighting: Sighting, *, earlier_key: str) -> None:
        self.examples.append({"what": what, "id": sighting.event_id, "key": sighting.key, "earlier_key": earlier_key})

    def summary(self) -> dict[str, Any]:
        """The counts; ``forgotten`` above 0 means that older repeats can no longer be recognised."""
        return {
            "accepted": self.accepted,
            "wire_repeats": self.wire_repeats,
            "new_key_duplicates": self.new_key_duplicates,
            "reused_keys": self.reused_keys,
            "remembered": len(self._keys),
            "forgotten": self._keys.forgotten,
            "examples": list(self.examples),
        }
