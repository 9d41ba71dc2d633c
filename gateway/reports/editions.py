"""Published figures: frozen with a hash, never changed, derived again from what was known when they were published."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from gateway.config import CoverageSection, ReportsSection
from gateway.coverage.days import LOCAL, Month
from gateway.coverage.facts import Fact, Sort
from gateway.coverage.history import History
from gateway.errors import GatewayError
from gateway.history import write_whole
from gateway.reports import alarms
from gateway.reports.figures import EPOCH, MS, Known, instant_of, month_figures
from gateway.reports.scope import ALL, Scope

FOLDER = "editions"
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


def months(folder: Path, known: Known) -> Sequence[Month]:
    """Those of which something is published, by the record or by the files."""
    files = {name[1] for path in (folder / FOLDER).glob("*.json") if (name := _NAME.fullmatch(path.name))}
    return sorted(
        Month.parse(month) for month in files | {subject[1] for subject in known.history.subjects(Sort.EDITION)}
    )


def missing(folder: Path, known: Known, month: Month) -> Sequence[Path]:
    """Files of editions that the record has, and the folder has not."""
    numbers = [subject[2] for subject in known.history.subjects(Sort.EDITION) if subject[1] == str(month)]
    paths = [folder / FOLDER / f"{month}-{number}.json" for number in sorted(numbers, key=int)]
    return [path for path in paths if not path.exists()]


def publish(folder: Path, known: Known, month: Month, *, box: str, now: datetime) -> tuple[Edition, Fact]:
    """Write the month's next edition, and the fact that says so. Raises GatewayError while the month lasts,
    and for one at whose end there was no site."""
    if now < month.end:
        raise GatewayError(
            f"{month} is not over yet: it can be published from {month.end:%Y-%m-%d %H:%M} UTC 本月尚未结束"
        )
    if not Scope(known.history, instant_of(month, now)).sites:
        first = min((fact.valid_from for fact in known.facts if fact.sort is Sort.SITE), default=None)
        since = f"the first is of {first.astimezone(LOCAL):%Y-%m-%d}" if first else "there is none yet"
        raise GatewayError(
            f"{month}: the ledger had no site at its end, {since}: nothing to publish 当月台账无场所,无可发布内容"
        )
    number = len(editions(folder, month)) + 1
    rules = known.coverage
    document = {
        "number": number,
        "published_ms": (now - EPOCH) // MS,
        "facts": known.facts[-1].id if known.facts else 0,
        "events": known.alarms.seq,
        "rules": {
            "target_kinds": sorted(rules.target_kinds),
            "proof_key_unit_min": round(rules.proof_key_unit_h * 60),
            "proof_min": round(rules.proof_h * 60),
        },
        "reports": known.settings.model_dump(mode="json"),
        "figures": month_figures(known, month, instant_of(month, now), box=box),
    }
    made = Edition(folder / FOLDER / f"{month}-{number}.json", number, canonical(document))
    made.path.parent.mkdir(mode=0o700, exist_ok=True)
    write_whole(made.path, made.content)
    value = {"state": made.state, "hash": made.sha256}
    return made, Fact(Sort.EDITION, (ALL, str(month), str(number)), value, now, actor="cli")


def as_published(edition: Edition, known: Known, month: Month, folder: Path) -> Known:
    """What was known when it was published, and the rules of that day."""
    document = edition.document
    facts = [fact for fact in known.facts if fact.id <= document["facts"]]
    rules = document["rules"]
    coverage = CoverageSection(
        target_kinds=tuple(rules["target_kinds"]),
        proof_key_unit_h=rules["proof_key_unit_min"] / 60,
        proof_h=rules["proof_min"] / 60,
        grace_h=known.coverage.grace_h,
        due_days=known.coverage.due_days,
    )
    from gateway.reports.sources import log_of, rules_of

    log = alarms.read(*log_of(folder, month), seq=document["events"])
    settings = ReportsSection(**document["reports"])
    return replace(
        known,
        facts=facts,
        history=History(facts),
        alarms=log,
        rules=rules_of(coverage),
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
    if why := changed(edition, known, month):
        return [why]
    figures = edition.document["figures"]
    at = EPOCH + figures["at_ms"] * MS
    then = as_published(edition, known, month, folder)
    again = month_figures(then, month, at, box=figures["box"])
    if canonical(again) == canonical(figures):
        return []
    differing = [node for node in figures["nodes"] if again["nodes"].get(node) != figures["nodes"][node]]
    begins_later = again["alarms_since_ms"] != figures["alarms_since_ms"]
    why = "; events of that time are no longer kept" if begins_later else ""
    return [f"the facts of that time give other figures for {', '.join(differing) or 'the whole'}{why} 重算不一致"]


def known_now(known: Known) -> datetime:
    """A moment at which everything that is known holds."""
    return max(fact.valid_from for fact in known.facts)
