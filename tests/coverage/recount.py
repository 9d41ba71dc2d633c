"""A second hand: counts a district at one moment by looking through its facts, slowly, after the text of the rules.

It shares nothing with the engine but the form of a fact, and nothing in it is clever. Periods are counted by asking it
again and again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

from gateway.coverage.facts import Fact

LIVE_TEST_DAYS = {"panic_button": 30, "radio_code": 30}
GRACE_DAYS = 7
TARGET = ("bank_branch", "jewelry_store", "cash_heavy_unit")


class Recount:
    """All facts, as they were known at some moment (None: today)."""

    def __init__(self, facts: Iterable[Fact], known_at: datetime | None = None) -> None:
        known = [f for f in facts if known_at is None or (f.recorded_at is not None and f.recorded_at <= known_at)]
        mistaken = {f.withdraws for f in known if f.withdraws is not None}
        self.said: dict[tuple[str, tuple[str, ...]], list[Fact]] = defaultdict(list)
        for fact in known:
            if fact.id not in mistaken and not (fact.withdraws is not None and fact.value is None):
                self.said[fact.sort.value, fact.subject].append(fact)

        self.subjects: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for sort, subject in self.said:
            self.subjects[sort].append(subject)

    def last(self, sort: str, subject: tuple[str, ...], at: datetime) -> Fact | None:
        """The fact that counts, be it at its end."""
        begun = [fact for fact in self.said.get((sort, subject), ()) if fact.valid_from <= at]
        return max(begun, key=lambda f: (f.valid_from, f.recorded_at or f.valid_from, f.id)) if begun else None

    def value(self, sort: str, subject: tuple[str, ...], at: datetime) -> Any:
        fact = self.last(sort, subject, at)
        if fact is None or (fact.valid_to is not None and fact.valid_to <= at):
            return None
        return fact.value

    def begins(self, sort: str, subject: tuple[str, ...], at: datetime) -> datetime | None:
        fact = self.last(sort, subject, at)
        return fact.valid_from if fact is not None and self.value(sort, subject, at) is not None else None

    # -- one watcher ---------------------------------------------------------------------------------------------------

    def in_service(self, point: str, device: str, zone: str, at: datetime) -> bool:
        if self.value("acceptance", (point, device, zone), at) is None:
            return False
        stage = self.value("stage", (device,), at)
        return stage is None or stage["stage"] not in ("out_of_service", "retired")

    def condition(self, point: str, device: str, zone: str, at: datetime) -> set[str]:
        """Words about a watcher in service: "works", "degraded", "overdue", "unsupervised"."""
        words = {"works"}
        kind = (self.value("device", (device,), at) or {}).get("kind", "")
        if kind == "radio_code":
            words.add("unsupervised")
        whole = self.value("health", (device, ""), at)
        if whole is None:
            state = "working" if kind == "radio_code" else "silent"
        else:
            state = "working" if kind == "radio_code" and whole["state"] == "silent" else whole["state"]
        states = [state]
        if zone != "":
            part = self.value("health", (device, zone), at)
            states.append("working" if part is None else part["state"])
        if any(state not in ("working", "degraded") for state in states):
            words.discard("works")
        if "degraded" in states:
            words.add("degraded")
        if kind in LIVE_TEST_DAYS:
            tests = [self.begins("acceptance", (point, device, zone), at)]
            tests += [
                self.begins("live_test", subject, at)
                for subject in self.subjects["live_test"]
                if subject[0] == device and zone in ("", subject[1])
            ]
            age = at - max(moment for moment in tests if moment is not None)
            if age >= timedelta(days=LIVE_TEST_DAYS[kind] + GRACE_DAYS):
                words.discard("works")
            elif age >= timedelta(days=LIVE_TEST_DAYS[kind]):
                words |= {"degraded", "overdue"}
        return words

    # -- one site ------------------------------------------------------------------------------------------------------

    def is_there(self, site: dict[str, Any], at: datetime) -> bool:
        today = (at + timedelta(hours=8)).date().isoformat()
        return (site["opens"] or "0") <= today <= (site["closes"] or "9")

    def is_networked(self, site: str, is_key: bool, at: datetime) -> bool:
        proof = self.value("proof", (site,), at)
        begun = self.begins("proof", (site,), at)
        if proof is None or begun is None or proof["rung"] not in ("test_accepted", "alarm_accepted"):
            return False
        return at - begun < (timedelta(hours=24) if is_key else timedelta(days=7))

    def lines(self, site: str, everywhere: dict[str, Any], at: datetime) -> Iterator[set[str]]:
        """Each requirement that a site has, as the set of what is true of it."""
        value = self.value("site", (site,), at)
        profile = self.value("profile", (value["kind"],), at)
        if profile is None:
            return
        points = {name: point for name, point in everywhere.items() if point["site"] == site}
        networked = self.is_networked(site, value["is_key_unit"], at)
        for line in profile["requirements"]:
            if line["every_site"] and all(point["kind"] != line["point_kind"] for point in points.values()):
                yield self.plain(line)
        for name, point in points.items():
            yield from self.of_point(name, point, profile["requirements"], networked, at)

    def plain(self, line: dict[str, Any]) -> set[str]:
        words = {str(line["duty"]), str(line["family"])}
        if line["networking"] == "must":
            words.add("must")
        if line["measure"] == "access_control":
            words.add("entrance")
        return words

    def of_point(
        self, name: str, point: dict[str, Any], lines: list[dict[str, Any]], networked: bool, at: datetime
    ) -> Iterator[set[str]]:
        watchers = ([(point["device"], point["zone"])] if point["device"] else []) + list(point["also"])
        free = [(d, "" if z is None else str(z)) for d, z in watchers]
        free = [(d, z) for d, z in free if self.in_service(name, d, z, at)]
        everyone = list(free)
        for line in lines:
            if line["point_kind"] != point["kind"]:
                continue
            words = self.plain(line)
            if self.value("waiver", (name, line["measure"]), at) is not None:
                words.add("waived")
            if line["family"] == "physical":
                seen = self.value("inspection", (name, line["measure"]), at)
                if seen is not None and seen["ok"]:
                    words.add("works")
                yield words
                continue
            if line["shared"]:
                mine = everyone[: line["quantity"]]
            else:
                mine, free = free[: line["quantity"]], free[line["quantity"] :]
            if len(mine) == line["quantity"]:
                words.add("installed")
                each = [self.condition(name, d, z, at) for d, z in mine]
                if all("works" in one for one in each):
                    words |= set().union(*each)
                    if networked and "must" in words:
                        words.add("networked")
            yield words

    # -- the whole -----------------------------------------------------------------------------------------------------

    def site_counts(self, site: str, kind: str, points: dict[str, Any], at: datetime) -> dict[str, int]:
        count: dict[str, int] = defaultdict(int)
        for words in self.lines(site, points, at):
            if "entrance" in words and "waived" not in words:
                count["entrances"] += 1
                count["entrances_controlled"] += "works" in words
            if "advised" in words:
                if "waived" not in words and "technical" in words:
                    count["advised"] += 1
                    count["advised_installed"] += "installed" in words
            elif "waived" in words:
                count["waived"] += 1
            elif "physical" in words:
                count["physical"] += 1
                count["physical_ok"] += "works" in words
            else:
                count["required"] += 1
                count["must_network"] += "must" in words
                for word in ("installed", "networked"):
                    count[word] += word in words
                if "works" in words:
                    count["working"] += 1
                    for word in ("degraded", "overdue", "unsupervised"):
                        count[word] += word in words
        if count["required"]:
            whole = count["installed"] == count["required"]
            count["units"], count["units_installed"] = 1, int(whole)
            if kind in TARGET:
                count["target_units"], count["target_units_installed"] = 1, int(whole)
        return count

    def nodes(self, at: datetime) -> dict[str, dict[str, int]]:
        """Every node of the tree; numbers that are 0 may be missing."""
        nodes: dict[str, dict[str, int]] = {"all": defaultdict(int)}
        for subject in self.subjects["area"]:
            if self.value("area", subject, at) is not None:
                nodes.setdefault(f"area:{subject[0]}", defaultdict(int))
        values = {subject[0]: self.value("point", subject, at) for subject in self.subjects["point"]}
        points = {name: point for name, point in values.items() if point is not None}
        for subject in self.subjects["site"]:
            site = self.value("site", subject, at)
            if site is None or not self.is_there(site, at):
                continue
            above = ["all", f"site:{subject[0]}"]
            area = site["area"]
            while area is not None and self.value("area", (area,), at) is not None:
                above.append(f"area:{area}")
                area = self.value("area", (area,), at)["parent"]
            counted = self.site_counts(subject[0], site["kind"], points, at)
            for node in above:
                into = nodes.setdefault(node, defaultdict(int))
                for word, number in counted.items():
                    into[word] += number
        return nodes
