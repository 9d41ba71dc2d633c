"""Where a report looks: the tree of areas and sites as it was at an instant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from gateway.coverage.facts import Fact, Sort
from gateway.coverage.history import History
from gateway.errors import GatewayError

ALL = "all"


class NoSuchNode(GatewayError):
    """Asked for an area or site that is not there."""


class Scope:
    """Nodes go by the engine's ids: "all", "area:<id>", "site:<id>"."""

    def __init__(self, history: History, at: datetime, visible: frozenset[str] | None = None) -> None:
        """`visible`: the only sites that are looked at, with the areas around them; None: all."""
        self.areas = _in_force(history, Sort.AREA, at)
        self.sites = _in_force(history, Sort.SITE, at)
        if visible is not None:
            self.sites = {site: value for site, value in self.sites.items() if site in visible}
            around = {node.partition(":")[2] for site in self.sites for node in self.chain(site)[1:]}
            self.areas = {area: value for area, value in self.areas.items() if area in around}

    def node(self, text: str | None) -> str:
        """The node people mean by an id, with or without its sort. Raises NoSuchNode."""
        if text is None or text == ALL:
            return ALL
        sort, _, bare = text.rpartition(":")
        if bare in self.areas and sort in ("", "area"):
            return f"area:{bare}"
        if bare in self.sites and sort in ("", "site"):
            return f"site:{bare}"
        known = ", ".join(sorted(self.areas)) or "none"
        raise NoSuchNode(f"--node {text}: no such area or site at that time; areas: {known} 无此区域或场所")

    def nodes(self) -> Sequence[str]:
        """All, district by district, each before what is in it."""
        tops = [area for area, value in self.areas.items() if value.get("parent") not in self.areas]
        strays = [site for site, value in self.sites.items() if value.get("area") not in self.areas]
        return [ALL, *self._below(tops), *(f"site:{site}" for site in sorted(strays))]

    def _below(self, areas: Iterable[str]) -> Iterable[str]:
        for area in sorted(areas):
            yield f"area:{area}"
            yield from self._below(each for each, value in self.areas.items() if value.get("parent") == area)
            yield from sorted(f"site:{site}" for site, value in self.sites.items() if value.get("area") == area)

    def parent(self, node: str) -> str | None:
        """None for the whole."""
        sort, _, bare = node.partition(":")
        if node == ALL:
            return None
        up = self.areas[bare].get("parent") if sort == "area" else self.sites[bare].get("area")
        return f"area:{up}" if up in self.areas else ALL

    def chain(self, site: str) -> Sequence[str]:
        """The nodes a site is counted in, itself first."""
        found = [f"site:{site}"]
        while (up := self.parent(found[-1])) is not None and up not in found:
            found.append(up)
        return found

    def depth(self, node: str) -> int:
        """Steps below the whole."""
        up = self.parent(node)
        return 0 if up is None else 1 + self.depth(up)

    def is_in(self, node: str, site: str) -> bool:
        return site in self.sites and node in self.chain(site)

    def sites_of(self, node: str) -> frozenset[str]:
        return frozenset(site for site in self.sites if self.is_in(node, site))

    def kind(self, node: str) -> str:
        """The kind of an area, "site" or "all"."""
        sort, _, bare = node.partition(":")
        return str(self.areas[bare]["kind"]) if sort == "area" else sort

    def name(self, node: str) -> str:
        sort, _, bare = node.partition(":")
        if node == ALL:
            return ""
        return str((self.areas if sort == "area" else self.sites)[bare]["name"])

    def areas_of(self, node: str, kind: str) -> Sequence[str]:
        """Areas of a kind at or below a node, in the order of the tree."""
        return [each for each in self.nodes() if self.kind(each) == kind and node in self.up(each)]

    def up(self, node: str) -> Sequence[str]:
        """A node and those it is counted in."""
        found = [node]
        while (up := self.parent(found[-1])) is not None:
            found.append(up)
        return found


def _in_force(history: History, sort: Sort, at: datetime) -> Mapping[str, Mapping[str, Any]]:
    return {
        subject[0]: value
        for subject in sorted(history.subjects(sort))
        if (value := history.at(sort, subject, at)) is not None
    }


def lines(facts: Iterable[Fact], sort: Sort) -> Mapping[tuple[str, ...], Sequence[Fact]]:
    """What was said of each subject, and not withdrawn, by the time from which it holds."""
    known = list(facts)
    withdrawn = {fact.withdraws for fact in known if fact.withdraws is not None}
    found: dict[tuple[str, ...], list[Fact]] = {}
    for fact in known:
        if fact.sort is sort and fact.id not in withdrawn and (fact.withdraws is None or fact.value is not None):
            found.setdefault(fact.subject, []).append(fact)
    for line in found.values():
        line.sort(key=lambda fact: (fact.valid_from, fact.recorded_at or fact.valid_from, fact.id))
    return found
