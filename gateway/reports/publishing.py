"""Publish a month: the file first, then the fact that says so. Cut off between them, it is finished the next time, with the same bytes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path

from gateway.access import Actor
from gateway.audit import Audit, Deed
from gateway.coverage.days import LOCAL, Month
from gateway.coverage.facts import Fact, Sort
from gateway.errors import GatewayError
from gateway.history import write_whole
from gateway.reports.editions import Edition, editions, made, missing, path_of, recorded, underived
from gateway.reports.figures import Known, instant_of
from gateway.reports.scope import ALL, Scope

Record = Callable[[list[Fact]], Awaitable[None]]


async def publish(
    folder: Path, known: Known, month: Month, *, box: str, now: datetime, record: Record, audit: Audit, actor: Actor
) -> Edition:
    """The month's next edition, or the one that was cut off. Raises GatewayError while the month lasts, for one at whose
    end there was no site, and where a file of an edition is gone or strange."""
    _check(folder, known, month, now)
    edition = _unfinished(folder, known, month) or _next(folder, known, month, box=box, now=now)
    corrects = edition.document.get("corrects") or {}
    details = {"sha256": edition.sha256, "corrects": corrects.get("number")}
    await audit.record(actor, Deed.EDITION, f"{month} no. {edition.number}", details)
    if not edition.path.exists():
        edition.path.parent.mkdir(mode=0o700, exist_ok=True)
        write_whole(edition.path, edition.content)
    subject, value = (ALL, str(month), str(edition.number)), {"state": edition.state, "hash": edition.sha256}
    await record([Fact(Sort.EDITION, subject, value, now, actor=actor.id, key=f"edition/{month}/{edition.number}")])
    return edition


def _check(folder: Path, known: Known, month: Month, now: datetime) -> None:
    if now < month.end:
        raise GatewayError(
            f"{month} is not over yet: it can be published from {month.end.astimezone(LOCAL):%Y-%m-%d %H:%M} on 本月尚未结束"
        )
    if not Scope(known.history, instant_of(month, now)).sites:
        first = min((fact.valid_from for fact in known.facts if fact.sort is Sort.SITE), default=None)
        since = f"the first is of {first.astimezone(LOCAL):%Y-%m-%d}" if first else "there is none yet"
        raise GatewayError(
            f"{month}: the ledger had no site at its end, {since}: nothing to publish 当月台账无场所,无可发布内容"
        )
    for path in missing(folder, known, month):
        raise GatewayError(
            f"{path}: was published and is gone; a correction needs it: bring it back from a backup 文件缺失"
        )


def _unfinished(folder: Path, known: Known, month: Month) -> Edition | None:
    """An edition whose file was written, and its fact was not. One that does not follow from the facts is nobody's."""
    done = recorded(known, month)
    for edition in editions(folder, month):
        if edition.number not in done:
            if why := _strange(folder, known, month, edition, len(done) + 1):
                raise GatewayError(
                    f"{edition.path}: is not in the record of facts ({why}); take it away 非本机发布的文件"
                )
            return edition
    return None


def _strange(folder: Path, known: Known, month: Month, edition: Edition, number: int) -> str:
    if edition.number != number:
        return f"the next is no. {number}"
    try:
        return "; ".join(underived(edition, known, month, folder))
    except (KeyError, TypeError, ValueError) as error:
        return f"it is no edition: {error!r}"


def _next(folder: Path, known: Known, month: Month, *, box: str, now: datetime) -> Edition:
    published = editions(folder, month)
    before = published[-1] if published else None
    number = before.number + 1 if before else 1
    content = made(known, month, before, number, box=box, now=now)
    return Edition(path_of(folder, month, number), number, content)
