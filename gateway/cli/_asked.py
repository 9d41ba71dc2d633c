"""What profiles ask of points now, for commands that say something about one measure at one point."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from gateway.coverage.facts import Sort
    from gateway.coverage.history import History
    from gateway.coverage.requirements import Requirement
    from gateway.model import Point
    from gateway.registry import Registry


def check_site(registry: Registry, site: str | None, *others: str) -> None:
    """That there is such a site, in the ledger or among `others`; None: of no one site. Raises ConfigError."""
    from gateway.errors import ConfigError, Problem

    if site not in {None, *registry.snapshot.sites, *others}:
        found, expected = f"{site!r} is not in the ledger"[:160], "a site (fangkong site list)"
        raise ConfigError([Problem("command line", None, "--site", found, expected, "场所不存在")])


async def history_of(registry: Registry, *sorts: Sort) -> History:
    """All that was ever said of these sorts, withdrawals among it. Raises ConfigError."""
    from gateway.coverage.history import History

    history = History()
    for sort in sorts:
        after = 0
        while page := await registry.facts(after=after, sort=sort):
            after = page[-1].id
            history.add(page)
    return history


def asked_of(registry: Registry, profiles: History, point: Point, now: datetime) -> Sequence[Requirement]:
    """What the profile of its site asks of a point; nothing of one whose site has none."""
    from gateway.coverage.facts import Sort
    from gateway.coverage.requirements import profile_of

    kind = registry.snapshot.sites[point.site].kind
    value = profiles.at(Sort.PROFILE, (kind,), now)
    lines = profile_of(kind, value).requirements if value is not None else ()
    return [line for line in lines if line.point_kind == point.kind]


async def asked(registry: Registry, point: str, measure: str, now: datetime) -> Requirement:
    """The requirement that this is. Raises ConfigError when the point is unknown or no profile asks it for this."""
    from gateway.coverage.facts import Sort
    from gateway.errors import ConfigError, Problem

    known = registry.snapshot.points.get(point)
    if known is None:
        found = f"{point!r} is not in the ledger"
        raise ConfigError([Problem("command line", None, "point", found, "a point of the ledger", "点位不存在")])
    lines = asked_of(registry, await history_of(registry, Sort.PROFILE), known, now)
    for line in lines:
        if line.measure == measure:
            return line
    found = f"{measure!r} is not asked of a point of kind {known.kind or '(none)'}"
    expected = (
        "one of " + ", ".join(line.measure for line in lines) if lines else "a point that a profile asks for something"
    )
    raise ConfigError([Problem("command line", None, "measure", found[:120], expected, "配置要求中没有该措施")])


async def unknown_kinds(registry: Registry, things: Sequence[object], now: datetime) -> Sequence[str]:
    """A note for each kind that nothing is asked of: mostly a slip, by which a place would require nothing unseen."""
    import difflib

    from gateway.coverage.contracts import CONTRACTS
    from gateway.coverage.facts import Sort
    from gateway.coverage.requirements import profile_of
    from gateway.model import Device, Point, Site

    profiles = await history_of(registry, Sort.PROFILE)
    lines = {kind: profiles.at(Sort.PROFILE, (kind,), now) for (kind,) in profiles.subjects(Sort.PROFILE)}
    asked_points = {
        line.point_kind for kind, value in lines.items() if value for line in profile_of(kind, value).requirements
    }
    notes = []
    for sort, known in ((Site, set(lines)), (Device, set(CONTRACTS)), (Point, asked_points)):
        for kind in sorted({each.kind for each in things if isinstance(each, sort)} - known - {""}):
            near = difflib.get_close_matches(kind, known, n=1)
            hint = f'did you mean "{near[0]}"? ' if near else ""
            notes.append(f"note: {sort.__name__.lower()} kind {kind!r}: nothing is asked of it. {hint}无此类别的要求")
    return notes
