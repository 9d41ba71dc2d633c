"""Published figures: frozen with a hash, never changed, derived again from what was known when they were published."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from gateway.config import ContractsSection, CoverageSection, ReportsSection
from gateway.coverage.days import Month
from gateway.coverage.facts import Fact, Sort
from gateway.coverage.history import History
from gateway.coverage.verdict import Rules
from gateway.errors import GatewayError
from gateway.reports import alarms
from gateway.reports.figures import EPOCH, MS, Known, instant_of, month_figures
from gateway.reports.scope import ALL

FOLDER = "editions"
FACTS_EACH = 100
"""So near a fact that was tampered with is named; sixteen letters for each hundred are a ten-thousandth of the record."""
NODES_NAMED = 10
_NAME = re.compile(r"([1-9]\d{3}-(?:0[1-9]|1[0-2]))-(\d+)\.json")


@dataclass(frozen=True, slots=True)
class Edition:
    """One that was published: "published", and after it "corrected" ones."""

    path: Path
    number: int
    content: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def state(self) -> str:
        return "published" if self.number == 1 else "corrected"

    @property
    def document(self) -> dict[str, Any]:
        """Raises GatewayError when the file is no edition any more."""
        try:
            found: dict[str, Any] = json.loads(self.content)
        except ValueError as error:
            raise GatewayError(f"{self.path}: is no edition any more ({error}) 通报文件已损坏") from error
        return found


def canonical(document: object) -> bytes:
    """The one way to write it: sorted keys, no blanks, whole numbers. Raises TypeError for a fraction."""
    _refuse_fractions(document)
    return json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def _refuse_fractions(found: object) -> None:
    if isinstance(found, float):
        raise TypeError(f"{found} is no whole number: it would not be written the same everywhere")
    for each in found.values() if isinstance(found, dict) else found if isinstance(found, list | tuple) else ():
        _refuse_fractions(each)


def editions(folder: Path, month: Month) -> Sequence[Edition]:
    """Those of a month, the first first."""
    found = [
        Edition(path, int(name[2]), path.read_bytes())
        for path in (folder / FOLDER).glob(f"{month}-*.json")
        if (name := _NAME.fullmatch(path.name))
    ]
    return sorted(found, key=lambda each: each.number)


def path_of(folder: Path, month: Month, number: int) -> Path:
    return folder / FOLDER / f"{month}-{number}.json"


def months(folder: Path, known: Known) -> Sequence[Month]:
    """Those of which something is published, by the record or by the files."""
    files = {name[1] for path in (folder / FOLDER).glob("*.json") if (name := _NAME.fullmatch(path.name))}
    return sorted(
        Month.parse(month) for month in files | {subject[1] for subject in known.history.subjects(Sort.EDITION)}
    )


def recorded(known: Known, month: Month) -> Sequence[int]:
    """The numbers of the editions that the record has."""
    return sorted(int(number) for _, of, number in known.history.subjects(Sort.EDITION) if of == str(month))


def missing(folder: Path, known: Known, month: Month) -> Sequence[Path]:
    """Files of editions that the record has, and the folder has not."""
    paths = [path_of(folder, month, number) for number in recorded(known, month)]
    return [path for path in paths if not path.exists()]


def made(known: Known, month: Month, before: Edition | None, number: int, *, box: str, now: datetime) -> bytes:
    """An edition: the figures, and all that it takes to derive them again. `before` is the one that it corrects."""
    rules, figures = known.coverage, month_figures(known, month, instant_of(month, now), box=box)
    document = {
        "number": number,
        "published_ms": (now - EPOCH) // MS,
        "facts": known.facts[-1].id if known.facts else 0,
        "facts_sha256": digests(known.facts),
        "events": known.alarms.seq,
        "rules": {
            "target_kinds": sorted(rules.target_kinds),
            "proof_key_unit_min": round(rules.proof_key_unit_h * 60),
            "proof_min": round(rules.proof_h * 60),
            "live_tests": _live_tests(rules),
        },
        "reports": known.settings.model_dump(mode="json"),
        "figures": figures,
    }
    if before is not None:
        document["corrects"] = {"number": before.number, "sha256": before.sha256}
        document["changed"] = differences(before.document["figures"]["nodes"], figures["nodes"])
    return canonical(document)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What a correction changes: of each node the counts as [before, after], and the names of what else is another."""
    found = {}
    for node in sorted(before.keys() | after.keys()):
        old, new = before.get(node, {}), after.get(node, {})
        was, now = old.get("counts", {}), new.get("counts", {})
        counts = {key: [was.get(key, 0), now.get(key, 0)] for key in now | was if was.get(key, 0) != now.get(key, 0)}
        other = sorted(key for key in old | new if key != "counts" and old.get(key) != new.get(key))
        if counts or other:
            found[node] = {"counts": counts, "other": other}
    return found


def digests(facts: Sequence[Fact]) -> list[str]:
    """Of each FACTS_EACH facts in the order of the record: the hash by which it is found out where one was tampered with."""
    lines = [_line(fact) for fact in facts]
    blocks = (lines[start : start + FACTS_EACH] for start in range(0, len(lines), FACTS_EACH))
    return [hashlib.sha256("\n".join(block).encode()).hexdigest()[:16] for block in blocks]


def _line(fact: Fact) -> str:
    times = [None if at is None else at.isoformat() for at in (fact.valid_from, fact.valid_to, fact.recorded_at)]
    value = None if fact.value is None else dict(fact.value)
    words = [fact.id, fact.sort, fact.subject, value, times, fact.actor, fact.withdraws, fact.key]
    return json.dumps(words, ensure_ascii=False, sort_keys=True)


def _live_tests(coverage: CoverageSection) -> dict[str, dict[str, int]]:
    """What the site file changes of the contracts, as far as it is counted: a silence is a fact already."""
    said = coverage.contract.model_dump(exclude_defaults=True)
    return {kind: {key: days for key, days in each.items() if key != "heard_within_s"} for kind, each in said.items()}


def as_published(edition: Edition, known: Known, month: Month, folder: Path) -> Known:
    """What was known when it was published, and the rules of that day."""
    document = edition.document
    facts = [fact for fact in known.facts if fact.id <= document["facts"]]
    rules = document["rules"]
    coverage = CoverageSection(
        target_kinds=tuple(rules["target_kinds"]),
        proof_key_unit_h=rules["proof_key_unit_min"] / 60,
        proof_h=rules["proof_min"] / 60,
        contract=ContractsSection(**rules.get("live_tests", {})),
        grace_h=known.coverage.grace_h,
        due_days=known.coverage.due_days,
    )
    from gateway.reports.sources import log_of

    log = alarms.read(*log_of(folder, month), seq=document["events"])
    settings = ReportsSection(**document["reports"])
    return replace(
        known,
        facts=facts,
        history=History(facts),
        alarms=log,
        rules=Rules.of(coverage),
        coverage=coverage,
        settings=settings,
    )


def changed(edition: Edition, known: Known, month: Month) -> str:
    """Why the file is not what was published; nothing when it is."""
    said = known.history.at(Sort.EDITION, (ALL, str(month), str(edition.number)), known_now(known))
    if said is None:
        return "the record of facts knows no such edition 无发布记录"
    if said["hash"] != edition.sha256:
        return f"changed since it was published: sha256 {edition.sha256}, published {said['hash']} 文件被改动"
    return ""


def faults(edition: Edition, known: Known, month: Month, folder: Path) -> Sequence[str]:
    """Why an edition is not what was published, or not what follows from the facts; nothing when all is well."""
    return [why] if (why := changed(edition, known, month)) else underived(edition, known, month, folder)


def underived(edition: Edition, known: Known, month: Month, folder: Path) -> Sequence[str]:
    """Why it does not follow from facts, events and rules of its day; nothing when it does, byte for byte."""
    document = edition.document
    figures, number = document["figures"], document["number"]
    then = as_published(edition, known, month, folder)
    corrects = document.get("corrects")
    before = next((each for each in editions(folder, month) if corrects and each.number == corrects["number"]), None)
    if corrects and (before is None or before.sha256 != corrects["sha256"]):
        return [f"edition {corrects['number']}, which it corrects, is not as it was 所更正的版本已变"]
    published = EPOCH + document["published_ms"] * MS
    if made(then, month, before, number, box=figures["box"], now=published) == edition.content:
        return []
    found = []
    known_then, now = document["facts_sha256"], digests(then.facts)
    for block in range(max(len(known_then), len(now))):
        if known_then[block : block + 1] != now[block : block + 1]:
            ids = [fact.id for fact in then.facts[block * FACTS_EACH : (block + 1) * FACTS_EACH]] or [0]
            found.append(f"one of the facts {ids[0]} to {ids[-1]} was changed, added or removed 事实记录被改动")
            break
    again = month_figures(then, month, EPOCH + figures["at_ms"] * MS, box=figures["box"])
    if canonical(again) != canonical(figures):
        differing = [node for node in figures["nodes"] if again["nodes"].get(node) != figures["nodes"][node]]
        begins_later = again["alarms_since_ms"] != figures["alarms_since_ms"]
        why = "; events of that time are no longer kept" if begins_later else ""
        named = ", ".join(differing[:NODES_NAMED]) or "the whole"
        found.append(f"the facts of that time give other figures for {named}{why} 重算不一致")
    return found or ["it is not written as it would be from these facts 重算不一致"]


def known_now(known: Known) -> datetime:
    """A moment at which everything that is known holds."""
    return max(fact.valid_from for fact in known.facts)
