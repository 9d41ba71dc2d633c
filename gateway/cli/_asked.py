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
    from gateway.registry import Registry, Snapshot


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


def asked_of(ledger: Snapshot, profiles: History, point: Point, now: datetime) -> Sequence[Requirement]:
    """What the profile of its site asks of a point; nothing of one whose site has none."""
    from gateway.coverage.facts import Sort
    from gateway.coverage.history import ms_of

    site = ledger.sites.get(point.site)  # of a file that is not yet checked it may be missing
    profile = profiles.look(Sort.PROFILE, (site.kind,), ms_of(now)).read if site is not None else None
    return profile.get(point.kind, ()) if profile is not None else ()


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
