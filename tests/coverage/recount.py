"""The figures by a second hand: slow and plain, from the rules as they are written (docs/coverage.md), for tests of the engine.

Nothing here is the engine's but the shape of a fact. Each moment is counted from the whole list of facts; a period is cut
wherever anything may change and its parts are added up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

from gateway.coverage.facts import Fact

LOCAL = timezone(timedelta(hours=8))
DAY = timedelta(days=1)
MS = timedelta(milliseconds=1)
LIVE_TEST = {"panic_button": 30 * DAY, "radio_code": 30 * DAY}
GRACE = 7 * DAY
UNSUPERVISED = {"radio_code"}
WORKS = {"working", "degraded"}
KEY_UNIT_WINDOW = DAY
WINDOW = 7 * DAY
PROVES = {"test_accepted", "alarm_accepted"}
TARGET = {"bank_branch", "jewelry_store", "cash_heavy_unit"}

Words = Counter[str]
Watcher = tuple[str, str]


def known(facts: Iterable[Fact], known_at: datetime | None = None) -> list[Fact]:
    """What had been recorded by then, without what had been withdrawn by then and without bare withdrawals."""
    recorded = [fact for fact in facts if known_at is None or fact.recorded_at is None or fact.recorded_at <= known_at]
    withdrawn = {fact.withdraws for fact in recorded}
    return [
        fact for fact in recorded if fact.id not in withdrawn and (fact.withdraws is None or fact.value is not None)
    ]


class Moment:
    """What holds at one moment."""

    def __init__(self, facts: list[Fact], at: datetime) -> None:
        self.at = at
        newest: dict[tuple[str, tuple[str, ...]], Fact] = {}
        self.proved: dict[str, datetime] = {}
        for fact in facts:
            if fact.valid_from > at:
                continue
            held = newest.get((fact.sort, fact.subject))
            if held is None or _rank(held) < _rank(fact):
                newest[fact.sort, fact.subject] = fact
            if fact.sort == "proof" and fact.value and fact.value["rung"] in PROVES:
                site = fact.subject[0]
                self.proved[site] = max(fact.valid_from, self.proved.get(site, fact.valid_from))
        self.holding = {
            key: fact
            for key, fact in newest.items()
            if fact.value is not None and (fact.valid_to is None or at < fact.valid_to)
        }

    def value(self, sort: str, *subject: str) -> Mapping[str, Any] | None:
        fact = self.holding.get((sort, subject))
        return None if fact is None else fact.value

    def all_of(self, sort: str) -> dict[tuple[str, ...], Mapping[str, Any]]:
        return {subject: fact.value or {} for (found, subject), fact in self.holding.items() if found == sort}

    # -- requirements --------------------------------------------------------------------------------------------------

    def is_there(self, site: Mapping[str, Any]) -> bool:
        opens, closes = site["opens"], site["closes"]
        begins = None if opens is None else datetime.fromisoformat(opens).replace(tzinfo=LOCAL)
        ends = None if closes is None else datetime.fromisoformat(closes).replace(tzinfo=LOCAL) + DAY
        return (begins is None or begins <= self.at) and (ends is None or self.at < ends)

    def sites(self) -> dict[str, Words]:
        """What is counted at each site."""
        points: dict[str, dict[str, Mapping[str, Any]]] = {}
        for (point,), value in self.all_of("point").items():
            points.setdefault(value["site"], {})[point] = value
        return {
            name: self.site(name, site, points.get(name, {}))
            for (name,), site in self.all_of("site").items()
            if self.is_there(site)
        }

    def site(self, name: str, site: Mapping[str, Any], points: Mapping[str, Mapping[str, Any]]) -> Words:
        profile = self.value("profile", site["kind"])
        required = [] if profile is None else profile["requirements"]
        counted: Words = Counter()
        for point, value in points.items():
            taken: list[Watcher] = []
            for line in required:
                if line["point_kind"] == value["kind"]:
                    counted.update(self.one(site, point, value, line, taken))
        for line in required:
            if line["every_site"] and all(value["kind"] != line["point_kind"] for value in points.values()):
                counted.update(_words(line))
        if counted["required"]:
            target = ("target_units",) if site["kind"] in TARGET else ()
            counted.update(("units", *target))
            if counted["installed"] == counted["required"]:
                counted.update(f"{word}_installed" for word in ("units", *target))
        return counted

    def one(
        self,
        site: Mapping[str, Any],
        point: str,
        value: Mapping[str, Any],
        line: Mapping[str, Any],
        taken: list[Watcher],
    ) -> list[str]:
        """The words under which one requirement at one point is counted."""
        waived = self.value("waiver", point, line["measure"]) is not None
        if line["family"] == "physical":
            inspection = self.value("inspection", point, line["measure"])
            return _words(line, waived=waived, ok=inspection is not None and inspection["ok"])
        mine: list[Watcher] = []
        for watcher in self.accepted(point, value):
            if len(mine) < line["quantity"] and (line["shared"] or watcher not in taken):
                mine.append(watcher)
        if not line["shared"]:
            taken.extend(mine)
        if len(mine) < line["quantity"]:
            return _words(line, waived=waived)
        states = [self.how(point, *watcher) for watcher in mine]
        works = all(state <= WORKS for state in states)
        proved = self.proved.get(value["site"])
        window = KEY_UNIT_WINDOW if site["is_key_unit"] else WINDOW
        return _words(
            line,
            waived=waived,
            installed=True,
            working=works,
            networked=works and proved is not None and self.at < proved + window,
            degraded=works and any("degraded" in state for state in states),
            overdue=works and any(self.untested(point, *watcher) > timedelta() for watcher in mine),
            unsupervised=works and any(self.kind(device) in UNSUPERVISED for device, _ in mine),
        )

    # -- watchers ------------------------------------------------------------------------------------------------------

    def value_of_device(self, device: str) -> Mapping[str, Any]:
        return self.value("device", device) or {"kind": ""}

    def kind(self, device: str) -> str:
        return str(self.value_of_device(device)["kind"])

    def is_in_service(self, device: str) -> bool:
        stage = (self.value("stage", device) or {}).get("stage")
        return self.value("device", device) is not None and stage not in {"out_of_service", "retired"}

    def accepted(self, point: str, value: Mapping[str, Any]) -> list[Watcher]:
        """The point's watchers that are accepted there and in service, in its order."""
        first = [] if value["device"] is None else [(value["device"], value["zone"])]
        watchers = [(device, "" if zone is None else str(zone)) for device, zone in (*first, *value["also"])]
        return [
            watcher
            for watcher in watchers
            if self.value("acceptance", point, *watcher) is not None and self.is_in_service(watcher[0])
        ]

    def how(self, point: str, device: str, zone: str) -> set[str]:
        """The states of a watcher: of the device, of its zone, and of its live test."""
        states = set()
        health = self.value("health", device, "")
        states.add("silent" if health is None else health["state"])
        of_zone = self.value("health", device, zone)
        if zone and of_zone is not None:
            states.add(of_zone["state"])
        if self.kind(device) in UNSUPERVISED:
            states.discard("silent")
        late = self.untested(point, device, zone)
        if late > timedelta():
            states.add("degraded" if late <= GRACE else "untested")
        return states

    def untested(self, point: str, device: str, zone: str) -> timedelta:
        """For how long its live test has been overdue, the moment at which it fell due included; zero: it is not."""
        lasts = LIVE_TEST.get(self.kind(device))
        if lasts is None:
            return timedelta()
        tests = [self.holding["acceptance", (point, device, zone)].valid_from]
        for (sort, subject), fact in self.holding.items():
            if sort == "live_test" and subject[0] == device and (not zone or subject[1] == zone):
                tests.append(fact.valid_from)
        return max(self.at + MS - (max(tests) + lasts), timedelta())

    # -- the tree ------------------------------------------------------------------------------------------------------

    def above(self, site: str) -> list[str]:
        """The nodes in which a site is counted."""
        nodes = [f"site:{site}", "all"]
        area = (self.value("site", site) or {}).get("area")
        while area is not None and f"area:{area}" not in nodes:
            value = self.value("area", area)
            if value is None:
                break
            nodes.append(f"area:{area}")
            area = value["parent"]
        return nodes

    def nodes(self) -> dict[str, Words]:
        found: dict[str, Words] = {"all": Counter()} | {f"area:{name}": Counter() for (name,) in self.all_of("area")}
        for site, words in self.sites().items():
            for node in self.above(site):
                found.setdefault(node, Counter()).update(words)
        return found

    # -- devices -------------------------------------------------------------------------------------------------------

    def in_duty(self) -> set[str]:
        """Devices that are in service and accepted at a point of a site that is there."""
        found = set()
        for (point,), value in self.all_of("point").items():
            site = self.value("site", value["site"])
            if site is not None and self.is_there(site):
                found.update(device for device, _ in self.accepted(point, value))
        return found

    def is_at_fault(self, device: str) -> bool:
        states = {value["state"] for (of, _), value in self.all_of("health").items() if of == device}
        if self.value("health", device, "") is None:
            states.add("silent")
        if self.kind(device) in UNSUPERVISED:
            states.discard("silent")
        return not states.isdisjoint({"fault", "silent"})

    def above_device(self, device: str) -> list[str]:
        """The nodes and labels under which a device is counted: at its own site, if that is in the ledger."""
        value = self.value_of_device(device)
        vendor, model = value["vendor"], value["model"]
        if self.value("site", value["site"]) is None:
            return []
        labels = [f"vendor:{vendor}"] if vendor else []
        return [*self.above(value["site"]), *labels, *([f"model:{vendor}/{model}"] if model else [])]


def _rank(fact: Fact) -> tuple[datetime, datetime, int]:
    return fact.valid_from, fact.recorded_at or datetime.min.replace(tzinfo=UTC), fact.id


def _words(line: Mapping[str, Any], *, waived: bool = False, ok: bool = False, **is_so: bool) -> list[str]:
    mandatory = line["duty"] == "mandatory"
    if waived:
        return ["waived"] if mandatory else []
    if line["family"] == "physical":
        return ["physical", *(["physical_ok"] if ok else [])] if mandatory else []
    entrance = ["entrances", *(["entrances_controlled"] if is_so.get("working") else [])]
    words = entrance if line["measure"] == "access_control" else []
    if not mandatory:
        return [*words, "advised", *(["advised_installed"] if is_so.get("installed") else [])]
    must = line["networking"] == "must"
    said = [word for word, so in is_so.items() if so and (word != "networked" or must)]
    return [*words, "required", *(["must_network"] if must else []), *said]


def figures(found: Mapping[str, Any]) -> dict[str, Words]:
    """The engine's answer, in the words of this one: each node with what is not 0."""
    flat = {}
    for node, value in found.items():
        words = asdict(value)
        flat[node] = Counter({word: number for word, number in (words.pop("held", {}) | words).items() if number})
    return flat


def nodes(facts: Iterable[Fact], at: datetime, known_at: datetime | None = None) -> dict[str, Words]:
    """The counts of every node at a moment, as known then or at the end."""
    return {node: +words for node, words in Moment(known(facts, known_at), at).nodes().items()}


def changes(facts: list[Fact]) -> Iterator[datetime]:
    """Every moment at which any figure may change, and some more."""
    for fact in facts:
        yield fact.valid_from
        if fact.valid_to is not None:
            yield fact.valid_to
        if fact.sort == "proof":
            yield from (fact.valid_from + KEY_UNIT_WINDOW, fact.valid_from + WINDOW)
        if fact.sort in {"live_test", "acceptance"}:
            for lasts in set(LIVE_TEST.values()):
                yield from (fact.valid_from + lasts, fact.valid_from + lasts + GRACE)
        if fact.sort == "site" and fact.value is not None:
            for day in (fact.value["opens"], fact.value["closes"]):
                if day is not None:
                    midnight = datetime.fromisoformat(day).replace(tzinfo=LOCAL)
                    yield from (midnight, midnight + DAY)


def over(facts: Iterable[Fact], start: datetime, end: datetime) -> dict[str, Words]:
    """For every node: each count times the milliseconds it held, and `in_duty_ms`, `repair_ms` and `faults` of devices.
    Nodes of which there is nothing to count are left out."""
    facts = known(facts)
    cuts = sorted({start, end, *(at for at in changes(facts) if start < at < end)})
    before = Moment(facts, start - MS)
    faulty = {device for device in before.in_duty() if before.is_at_fault(device)}
    summed: dict[str, Words] = {}
    for at, until in pairwise(cuts):
        moment, ms = Moment(facts, at), (until - at) // MS
        for node, words in moment.nodes().items():
            summed.setdefault(node, Counter()).update({word: number * ms for word, number in words.items()})
        in_duty = moment.in_duty()
        now_faulty = {device for device in in_duty if moment.is_at_fault(device)}
        for device in in_duty:
            for node in moment.above_device(device):
                count = summed.setdefault(node, Counter())
                count["in_duty_ms"] += ms
                count["repair_ms"] += ms * (device in now_faulty)
                count["faults"] += device in now_faulty and device not in faulty
        faulty = now_faulty
    return {node: +words for node, words in summed.items() if +words}
