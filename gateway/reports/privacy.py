"""What the public may read: totals of a community, and of its classes those that hold at least k. Checked before it leaves.

The rules are those of docs/decisions/0069. A class with fewer than k is put together with the next smallest of its group until the
sum holds k: no cell is blank, and each group adds up to the difference of two totals, so nothing is left over by subtracting. A table
whose classes cannot be put together (alarms) prints "<k" and no sum. A community with fewer than k required has no figures of its
own; where fewer than k are outside dwellings, of two totals that differ by less than k only one is shown.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from gateway.coverage.tickets import INSTALLATION
from gateway.errors import GatewayError

OTHER = "other"
NOT_NETWORKED = "not_networked"
HIDDEN = -1
"""In the place of a number from 1 to k - 1."""
WORD_MIN = 3
"""A shorter word of the ledger is too common to be told from another."""
_CODE = re.compile(r"[a-z][a-z0-9_]{0,40}")


class NotPublic(GatewayError):
    """A page for the public holds what it must not; it is not written."""


def merged(classes: Mapping[str, int], k: int, other: str = OTHER) -> dict[str, int]:
    """Largest first; the small ones as one, of at least k. All together fewer than k: {other: HIDDEN}."""
    ordered = sorted(((count, name) for name, count in classes.items() if count), key=lambda each: (-each[0], each[1]))
    if not ordered:
        return {}
    kept = [(count, name) for count, name in ordered if count >= k and name != other]
    rest = sum(classes.values()) - sum(count for count, _ in kept)
    while 0 < rest < k and kept:
        rest += kept.pop()[0]
    shown = {name: count for count, name in kept}
    if rest:
        shown[other] = rest if rest >= k else HIDDEN
    return shown


def cell(count: int, k: int) -> int:
    """A number of which no sum is printed."""
    return HIDDEN if 0 < count < k else count


def apart(totals: Mapping[str, int], k: int) -> dict[str, int]:
    """The totals in their order; one that differs from a former by 1 to k - 1 is HIDDEN."""
    shown: dict[str, int] = {}
    for name, count in totals.items():
        is_far = all(not 0 < abs(count - other) < k for other in shown.values() if other != HIDDEN)
        shown[name] = cell(count, k) if is_far else HIDDEN
    return shown


def groups(node: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Gaps by class; each group adds up to a difference: required - installed, installed - working, physical - physical_ok."""
    technical, physical = node["gaps"]["technical"], node["gaps"]["physical"]
    installation = {gap: of for gap, of in technical.items() if gap in INSTALLATION}
    working = {gap: of for gap, of in technical.items() if gap not in INSTALLATION and gap != NOT_NETWORKED}
    return {
        "installation": {f"{gap}.{measure}": n for gap, of in installation.items() for measure, n in of.items()},
        "working": {f"{gap}.{measure}": n for gap, of in working.items() for measure, n in of.items()},
        "physical": {gap: sum(of.values()) for gap, of in physical.items()},
    }


def _gaps(node: Mapping[str, Any], counts: Mapping[str, int], k: int) -> dict[str, int]:
    found = groups(node)
    if counts["installed"] == HIDDEN:  # where a group begins and the other ends is not shown either
        found = {"technical": found["installation"] | found["working"], "physical": found["physical"]}
    shown = {
        name: count
        for group, classes in found.items()
        for name, count in merged(classes, k, f"{OTHER}_{group}").items()
    }
    pair = counts["must_network"], counts["networked"]
    if HIDDEN not in pair and pair[0] - pair[1] >= k:
        shown[NOT_NETWORKED] = pair[0] - pair[1]  # whatever the reason
    return shown


TOTALS = ("required", "installed", "working", "must_network", "networked")


def public(node: Mapping[str, Any], k: int) -> dict[str, Any]:
    """What the public edition is made of, and nothing else."""
    totals, before = ({name: node[when][name] for name in TOTALS} for when in ("counts", "before"))
    is_shown = totals["required"] >= k
    is_exact = is_shown and totals["required"] - node["dwelling"] >= k
    counts = {name: cell(count, k) for name, count in totals.items()} if is_exact else apart(totals, k)
    nothing = dict.fromkeys(TOTALS, HIDDEN)
    counts = counts if is_shown else nothing
    gaps = _gaps(node, counts, k) if is_shown else {}
    curve = [row for row in node["curve"] if min(row[1:4]) >= k] if is_exact else []
    return {
        "name": node["name"],
        "is_shown": int(is_shown),
        "counts": counts,
        "waived": cell(node["counts"]["waived"], k) if is_shown else HIDDEN,
        "before": {name: cell(count, k) for name, count in before.items()} if is_exact and before["required"] >= k else nothing,
        "curve": [row[1:4] for row in curve],
        "days": [row[0] for row in curve],
        "gaps": gaps,
        # The longest one of a class tells of one device; of a class with a handful of outages it tells of none in particular.
        "outages": {kind: longest for kind, (number, longest) in node["outages"].items() if number >= k},
        "alarms": {
            kind: {what: cell(count, k) for what, count in found.items()} for kind, found in node["alarms"].items()
        },
        "alarms_known": node["alarms_known"],
        "inspections": {"done": cell(node["inspections"]["done"], k)},
        "colour": node["colour"],
    }  # fmt: skip


def corrected(found: Mapping[str, Any], changed: Mapping[str, Sequence[int]], k: int) -> dict[str, list[int]]:
    """Of the totals that a correction changes, before and after, those that were and are shown."""
    is_exact = bool(found["curve"]) and found["is_shown"]
    return {
        name: list(pair)
        for name, pair in changed.items()
        if is_exact and found["counts"][name] != HIDDEN and not any(0 < count < k for count in pair)
    }


def check(found: Mapping[str, Any], k: int) -> None:
    """No cell of 1 to k - 1, and no word that is not a code, a day or the name of the community. Raises NotPublic."""
    small = [
        f"{where} is {number}" for where, number in _numbers(found) if 0 < number < k and not where.endswith(_FLAGS)
    ]
    words = [
        f"{where} says {word!r}"
        for where, word in _words(found)
        if where != "name" and not _CODE.fullmatch(word) and not re.fullmatch(r"\d{4}-\d\d-\d\d|[a-z_]+\.[a-z_]+", word)
    ]
    if small or words:
        raise NotPublic("the public edition must not show " + "; ".join(small + words) + " 公开版隐私检查未通过")


_FLAGS = ("is_shown", "alarms_known")
"""Yes or no, not a number of anything."""


def check_page(page: str, ledger: Iterable[str], allowed: Collection[str]) -> None:
    """No word of the ledger (site, address, contact, point, device) stands on the page. Raises NotPublic."""
    text = re.sub(r"<(style|svg)\b.*?</\1>", " ", page, flags=re.DOTALL)
    text = re.sub(r"<[^>]*>", " ", text)
    for word in {each for each in ledger if len(each) >= WORD_MIN and not each.isdecimal()}:
        if any(word in name for name in allowed):
            continue  # a site called as its community is
        if re.search(rf"(?<![A-Za-z0-9_.-]){re.escape(word)}(?![A-Za-z0-9_.-])", text):
            raise NotPublic(f"the public edition must not show {word!r}, which is in the ledger 公开版隐私检查未通过")


def _numbers(found: object, where: str = "") -> Iterable[tuple[str, int]]:
    if isinstance(found, bool):
        return
    if isinstance(found, int):
        yield where, found
    for key, value in _items(found):
        yield from _numbers(value, f"{where}.{key}" if where else str(key))


def _words(found: object, where: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(found, str):
        yield where, found
    if isinstance(found, Mapping):
        yield from ((where or str(key), str(key)) for key in found)
    for key, value in _items(found):
        yield from _words(value, f"{where}.{key}" if where else str(key))


def _items(found: object) -> Iterable[tuple[object, object]]:
    if isinstance(found, Mapping):
        return found.items()
    return enumerate(found) if isinstance(found, list | tuple) else ()
