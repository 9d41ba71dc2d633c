"""Nothing below k of what may be somebody's own can be had from the public edition, not by subtracting either (decision 0069)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.reports.privacy import HIDDEN, NOT_NETWORKED, check, corrected, public

K = 5
INSTALLATION = ("not_installed.panic", "not_installed.intrusion", "not_accepted.panic", "out_of_service.power")
WORKING = ("silent.panic", "fault.intrusion", "fault.power", "untested.panic", "bypassed.intrusion")
PHYSICAL = ("not_inspected.bars", "not_inspected.lock", "inspection_failed.bars")
NAMES = {
    "installation": INSTALLATION,
    "working": WORKING,
    "technical": INSTALLATION + WORKING,
    "physical": ("not_inspected", "inspection_failed"),
}
small = st.integers(0, 9)


def family(classes: Mapping[str, int]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for code, count in classes.items():
        gap, _, measure = code.partition(".")
        if count:
            found.setdefault(gap, {})[measure] = count
    return found


@st.composite
def nodes(draw: st.DrawFn, *, is_dwelling: bool) -> dict[str, Any]:
    """A community whose classes of gaps add up to the differences of its totals."""
    missing, broken, physical = ({name: draw(small) for name in names} for names in (INSTALLATION, WORKING, PHYSICAL))
    working = draw(st.integers(0, 60))
    installed = working + sum(broken.values())
    required = installed + sum(missing.values())
    must = draw(st.integers(0, required))
    networked = draw(st.integers(0, min(must, working)))
    outside = (
        draw(st.integers(0, min(K - 1, required))) if is_dwelling else draw(st.integers(min(K, required), required))
    )
    totals = {
        "required": required,
        "installed": installed,
        "working": working,
        "must_network": must,
        "networked": networked,
    }
    return {
        "name": "C", "counts": {**totals, "waived": draw(small)}, "before": {name: draw(st.integers(0, 70)) for name in totals},
        "curve": [["2026-10-01", required, installed, working, networked]], "dwelling": required - outside,
        "gaps": {"technical": family({**missing, **broken, "not_networked.panic": draw(small)}), "physical": family(physical)},
        "outages": {"panel": [draw(small), 7200]}, "alarms": {"panic": {"alarm": draw(small), "test": draw(small)}}, "alarms_known": 1,
        "inspections": {"done": draw(small), "overdue": draw(small)}, "colour": {"level": "grey"},
    }  # fmt: skip


def subsets(parts: list[int]) -> Iterator[int]:
    for size in range(len(parts) + 1):
        yield from map(sum, combinations(parts, size))


def parts(shown: Mapping[str, Any], *groups: str) -> list[int]:
    known = {name for group in groups for name in (*NAMES[group], f"other_{group}")}
    return [count for code, count in shown["gaps"].items() if code in known and count != HIDDEN]


def differences(shown: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Whatever can be had from two totals, less any of the classes between them."""
    counts = shown["counts"]
    between = {
        ("required", "installed"): ("installation",),
        ("installed", "working"): ("working",),
        ("required", "working"): ("installation", "working", "technical"),
    }
    for (more, less), groups in between.items():
        if HIDDEN not in (counts[more], counts[less]):
            whole = counts[more] - counts[less]
            yield from ((f"{more} - {less} - {part}", whole - part) for part in subsets(parts(shown, *groups)))


@given(nodes(is_dwelling=True))
def test_of_dwellings_no_two_totals_and_no_total_less_its_parts_leave_fewer_than_k(node: dict[str, Any]) -> None:
    shown = public(node, K)
    check(shown, K)

    totals = [count for count in shown["counts"].values() if count != HIDDEN]
    assert not [pair for pair in product(totals, totals) if 0 < pair[0] - pair[1] < K]
    assert not [found for found in differences(shown) if 0 < found[1] < K]
    assert shown["curve"] == [] and set(shown["before"].values()) == {HIDDEN}  # noqa: PT018  # nothing to compare with


@given(nodes(is_dwelling=False))
def test_a_total_less_its_parts_leaves_only_what_the_totals_say_themselves(node: dict[str, Any]) -> None:
    shown = public(node, K)
    check(shown, K)

    counts = node["counts"]
    named = {
        counts["required"] - counts["installed"],
        counts["installed"] - counts["working"],
        counts["required"] - counts["working"],
    }
    assert not [found for found in differences(shown) if 0 < found[1] < K and found[1] not in named]
    assert all(count in (HIDDEN, 0) or count >= K for count in shown["gaps"].values())
    overdue, physical = shown["gaps"].get("not_inspected"), sum(parts(shown, "physical"))
    assert overdue is None or overdue == HIDDEN or physical - overdue == 0 or physical - overdue >= K


@given(nodes(is_dwelling=False))
def test_the_classes_that_are_shown_add_up(node: dict[str, Any]) -> None:
    """Nothing is left out: a group is whole, or is only said to be small."""
    shown, counts = public(node, K), node["counts"]
    for more, less, group in (("required", "installed", "installation"), ("installed", "working", "working")):
        whole = counts[more] - counts[less]
        if shown["is_shown"] and shown["counts"]["installed"] != HIDDEN:
            assert sum(parts(shown, group)) == (whole if whole >= K else 0)
    assert shown["gaps"].get(NOT_NETWORKED, K) >= K


def test_a_correction_shows_no_total_that_is_hidden() -> None:
    node = {"is_shown": 1, "curve": [[9, 9, 9]], "counts": {"required": 20, "installed": 18, "networked": HIDDEN}}
    changed = {"required": [21, 20], "networked": [3, 2], "installed": [4, 18]}

    assert corrected(node, changed, K) == {"required": [21, 20]}
    assert corrected({**node, "curve": []}, changed, K) == {}


@pytest.mark.parametrize("required", [0, K - 1])
def test_a_community_with_fewer_than_k_has_no_figures(required: int) -> None:
    totals = dict.fromkeys(("required", "installed", "working", "must_network", "networked"), required)
    node = {
        "name": "C", "counts": {**totals, "waived": 0}, "before": totals, "curve": [], "dwelling": 0,
        "gaps": {"technical": {}, "physical": {}},
        "outages": {}, "alarms": {}, "alarms_known": 0, "inspections": {"done": 0, "overdue": 0}, "colour": {},
    }  # fmt: skip

    assert set(public(node, K)["counts"].values()) == {HIDDEN}
