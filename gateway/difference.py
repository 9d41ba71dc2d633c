"""What separates two configurations: which lines and destinations it touches, and what only a restart can change. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.config import SiteFile
from gateway.errors import Problem
from gateway.metrics import Outcome
from gateway.plan import Plan, PlannedConnection, PlannedDestination

LIVE = frozenset(
    {
        "gateway.language", "gateway.profiles_dir", "api.token_file", "api.metrics_without_token", "store.budget_mb",
        "store.retention_days", "store.positions_days", "store.grants_days", "broker.passwords", "broker.topics",
        "door", "self_test", "storms.window_s", "storms.burst", "storms.per_s", "storms.life_burst", "storms.life_per_s",
    }
)  # fmt: skip
"""Keys outside connections and destinations that a running gateway takes over. A key that is not here needs a restart."""


@dataclass(frozen=True, slots=True)
class Change:
    """Names, in the order of the file they stand in."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()

    @property
    def ending(self) -> tuple[str, ...]:
        """What runs now and will be stopped."""
        return self.removed + self.replaced

    @property
    def beginning(self) -> tuple[str, ...]:
        """What will be started."""
        return self.added + self.replaced


@dataclass(frozen=True, slots=True)
class Difference:
    """What a new configuration changes. What is not named here is untouched."""

    connections: Change = field(default_factory=Change)
    destinations: Change = field(default_factory=Change)
    settings: tuple[str, ...] = ()
    """Keys that change without stopping anything."""
    restart: tuple[Problem, ...] = ()
    """Keys that cannot change while the gateway runs, each where it stands in the new file."""

    def __bool__(self) -> bool:
        return self != Difference()


@dataclass(frozen=True, slots=True)
class Reload:
    """How the wish for another configuration ended."""

    outcome: Outcome
    sha256: str
    """Of the configuration in force now."""
    difference: Difference = field(default_factory=Difference)
    problems: tuple[Problem, ...] = ()
    """Why it was refused."""


def difference(old: Plan, new: Plan) -> Difference:
    """What must happen for `new` to be in force instead of `old`."""
    changed = list(_changed_keys(old, new))
    return Difference(
        _change(old.connections, new.connections),
        _change(old.destinations, new.destinations),
        tuple(key for key, _ in changed if key in LIVE),
        tuple(_needs_restart(new, key, found) for key, found in changed if key not in LIVE),
    )


def _change(
    old: Sequence[PlannedConnection] | Sequence[PlannedDestination],
    new: Sequence[PlannedConnection] | Sequence[PlannedDestination],
) -> Change:
    before: Mapping[str, object] = {part.section.name: part for part in old}
    after: Mapping[str, object] = {part.section.name: part for part in new}
    return Change(
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        replaced=tuple(name for name in after if name in before and after[name] != before[name]),
    )


def _changed_keys(old: Plan, new: Plan) -> Iterator[tuple[str, str]]:
    """Keys of the single tables, each with what changed."""
    for table in [
        name for name in SiteFile.model_fields if name not in ("connection", "destination", "door", "self_test")
    ]:
        if table == "broker" and not (has_topics(old) and has_topics(new)):
            continue  # none runs, or none will: the next one is started as its file has it
        before, after = getattr(old.site, table), getattr(new.site, table)
        for key in type(before).model_fields:
            was, is_now = getattr(before, key), getattr(after, key)
            if was != is_now:
                yield f"{table}.{key}", f"changes from {_shown(was)} to {_shown(is_now)}"
            elif _has_other_secret(old, new, f"{table}.{key}"):
                yield f"{table}.{key}", "another secret in the same file"
    if old.site.door != new.site.door:
        yield "door", "other doors"
    if old.site.self_test != new.site.self_test:
        yield "self_test", "other self-tests"
    if has_topics(old) and broker_keeps_all(new) and not broker_keeps_all(old):
        yield "broker", "a driver without receipts of its own needs a broker that saves every message"


def _has_other_secret(old: Plan, new: Plan, key: str) -> bool:
    if key == "broker.passwords":  # one that was made meanwhile is not another one
        now = new.device_passwords
        return any(now.get(user, password) != password for user, password in old.device_passwords.items())
    return key == "api.token_file" and old.token != new.token


def has_topics(plan: Plan) -> bool:
    """Whether it has connections that need an MQTT broker."""
    return any(planned.driver.LINK == "topics" for planned in plan.connections)


def broker_keeps_all(plan: Plan) -> bool:
    """Whether a message that our broker has acknowledged must survive it: some device does not wait for our own receipt."""
    topics = [planned.driver for planned in plan.connections if planned.driver.LINK == "topics"]
    return not all(getattr(driver, "RECEIPTS", False) for driver in topics)


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def _needs_restart(new: Plan, key: str, found: str) -> Problem:
    expected = "the value in force; this one changes with a restart only"
    return Problem(str(new.path), new.line_of_key(key), key, found, expected, "systemctl restart fangkong 需要重启")
