"""A month of a district of a thousand devices, through the parts of the gateway, to its bulletin on the notice board."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest

from gateway.access import GATEWAY
from gateway.assurance import Assurance
from gateway.audit import Audit
from gateway.config import CoverageSection, ReportsSection
from gateway.coverage.days import Month
from gateway.coverage.facts import Fact, Sort
from gateway.ids import EventIds
from gateway.intake import Intake, Route, Source
from gateway.kinds import Kind, Lane, Qualifier
from gateway.logs import logger
from gateway.metrics import Metrics
from gateway.model import Area, AreaKind, DeliveryState, Device, Observation, Point, Site
from gateway.registry import Registry
from gateway.reports.bulletin import Label, public
from gateway.reports.editions import faults
from gateway.reports.internal import internal
from gateway.reports.publishing import publish
from gateway.reports.sources import known
from gateway.store.sqlite import SqliteStore
from gateway.supervision.proofs import Proofs
from gateway.supervision.recorder import Recorder
from gateway.supervision.site_tests import place_of
from tests.conftest import JumpingClock

MONTH = Month(2027, 1)
STEP = timedelta(hours=6)
DEVICES, PER_SITE = 1000, 20
FAILURES_EACH = 3
CPU_S_AT_MOST = 60.0
"""The project allows itself 30 s of an idle machine; a shared and instrumented one takes a multiple (docs/reports.md)."""
PROFILE = {
    "version": "1",
    "source": "test",
    "requirements": [
        {"point_kind": "panic", "measure": "panic", "networking": "must"},
        {"point_kind": "room", "measure": "intrusion"},
    ],
}
LINE, OWN = Source("panels", "dc09"), "gateway"


class Tireless(JumpingClock):
    """Nobody else runs: whoever wants to pause goes on."""

    async def sleep(self, delay_s: float) -> None:
        return


@dataclass
class District:
    clock: JumpingClock
    store: SqliteStore
    registry: Registry
    intake: Intake
    recorder: Recorder
    proofs: Proofs
    assurance: Assurance

    async def say(self, source: Source, seen: Sequence[Observation]) -> None:
        await (await self.intake.report(source, seen))

    async def prove(self, site: Site) -> None:
        """The receiving centre takes the site's test event."""
        source = Source(OWN, OWN, place=place_of(site), proves_life=False)
        await self.say(source, [Observation(f"site:{site.id}", Kind.TEST_PERIODIC, test=True)])

    async def look(self) -> None:
        """What each part does every second."""
        waiting = await self.store.deliveries(destination="110", state=DeliveryState.QUEUED, limit=1000)
        if waiting:
            await self.store.accepted("110", [row.event.seq for row in waiting])
            self.proofs.accepted(waiting)
        await self.proofs.write()
        await self.recorder.look()
        await self.assurance.look()


@asynccontextmanager
async def district(folder: Path, clock: JumpingClock) -> AsyncIterator[District]:
    registry, metrics = await Registry.open(folder / "registry.db", clock), Metrics()
    store = await SqliteStore.open(folder, clock, inline=True)
    intake = Intake(
        store=store, places=registry, ids=EventIds(clock, Random(1)), clock=clock, metrics=metrics,
        routes=[Route("110", frozenset({Lane.LIFE}), proves=True)], heard=lambda device, source: None,
    )  # fmt: skip
    recorder = Recorder(
        store=store, registry=registry, parents=lambda _: (), last_heard=lambda _: None, lapses=lambda: (), clock=clock,
        metrics=metrics, log=logger(),
    )  # fmt: skip
    proofs = Proofs(store=store, registry=registry, clock=clock, metrics=metrics, log=logger())
    assurance = Assurance(registry, CoverageSection(), clock=clock, metrics=metrics, log=logger())
    await intake.load()
    await recorder.begin()
    await proofs.begin()
    yield District(clock, store, registry, intake, recorder, proofs, assurance)
    await registry.close()
    await store.close()


def sites() -> list[Site]:
    kinds = ("jewelry_store", "residential_estate", "residential_estate")
    return [
        Site(f"S{n}", f"{n}号", f"{4096 + n:04X}", kinds[n % 3], area=f"C{n % 7}", is_key_unit=n % 5 == 0)
        for n in range(DEVICES // PER_SITE)
    ]


async def entered(place: District) -> None:
    """The ledger, accepted on its first day."""
    areas = [Area("D", "区", AreaKind.DISTRICT)]
    for n in range(7):
        areas += [
            Area(f"Z{n}", f"{n}街道", AreaKind.CONTROL_ZONE, "D"),
            Area(f"C{n}", f"{n}社区", AreaKind.COMMUNITY, f"Z{n}"),
        ]
    devices, points, facts = [], [], []
    for n in range(DEVICES):
        is_panic = n % 4 == 0
        devices.append(
            Device(
                f"D{n}",
                f"S{n // PER_SITE}",
                kind="panic_button" if is_panic else "detector",
                vendor="V",
                model=f"M{n % 4}",
            )
        )
        points.append(
            Point(f"P{n}", f"S{n // PER_SITE}", n % PER_SITE + 1, "点", f"D{n}", kind="panic" if is_panic else "room")
        )
        facts.append(Fact(Sort.ACCEPTANCE, (f"P{n}", f"D{n}", ""), {"sheet": "x", "by": "m"}, place.clock.now()))
    profiles = [
        Fact(Sort.PROFILE, (kind,), PROFILE, place.clock.now()) for kind in ("residential_estate", "jewelry_store")
    ]
    await place.registry.put([*areas, *sites(), *devices, *points])
    await place.registry.record([*profiles, *facts])


Plot = dict[int, list[tuple[bool, Observation]]]


def plot(dice: Random) -> Plot:
    """What happens in which step, and whether it is the gateway that says so: each device tells of itself once a day, fails
    three times, or falls silent, for up to a day; each panic button is pressed once."""
    found: Plot = defaultdict(list)
    steps = int((MONTH.end - MONTH.start) / STEP)
    for n in range(DEVICES):
        device = f"D{n}"
        for step in range(n % 4, steps, 4):
            found[step].append((False, Observation(device, Kind.TELEMETRY, values={"battery": 100 - step // 4})))
        for _ in range(FAILURES_EACH):
            began, kind = (
                dice.randrange(steps),
                dice.choice((Kind.DEVICE_FAULT, Kind.TAMPER, Kind.SILENT, Kind.AC_LOSS)),
            )
            is_own = kind is Kind.SILENT
            found[began].append((is_own, Observation(device, kind)))
            found[began + dice.randrange(1, 5)].append((is_own, Observation(device, kind, Qualifier.RESTORE)))
        if n % 4 == 0:
            found[dice.randrange(steps)].append((False, Observation(device, Kind.PANIC)))
    return found


@pytest.mark.full
async def test_a_month_of_a_thousand_devices_and_its_bulletin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.process_time()
    clock = Tireless(MONTH.start)
    happens, steps = plot(Random(7)), int((MONTH.end - MONTH.start) / STEP)
    async with district(tmp_path, clock) as place:
        await entered(place)
        for step in range(steps):
            for own, source in ((False, LINE), (True, Source(OWN, OWN, proves_life=False))):
                seen = [observation for is_own, observation in happens[step] if is_own == own]
                for first in range(0, len(seen), 100):
                    await place.say(source, seen[first : first + 100])
            if step % 4 == 0:
                for site in sites():
                    await place.prove(site)
            await place.look()
            clock.jump_wall(STEP.total_seconds())
        clock.jump_wall(-0.001)
        await place.look()
        lived = time.process_time() - began
        live = place.assurance.figures
        clock.jump_wall(3600)

        about = await known(tmp_path, MONTH, CoverageSection(), ReportsSection())
        edition = await publish(
            tmp_path, about, MONTH, box="box", now=clock.now(), record=place.registry.record,
            audit=Audit(tmp_path / "audit.db", clock), actor=GATEWAY,
        )  # fmt: skip
        figures = edition.document["figures"]
        label = Label.of(edition)
        page = public(about, figures, None, lang="zh", label=label).page
        office = internal(about, figures, None, lang="zh", label=label).page
        took = time.process_time() - began
        again = await known(tmp_path, MONTH, CoverageSection(), ReportsSection())
        assert faults(edition, again, MONTH, tmp_path) == []
    with capsys.disabled():
        print(
            f"\na month of {DEVICES} devices: {lived:.1f} s, its bulletin {took - lived:.1f} s, {len(about.facts)} facts"
        )

    everything = figures["nodes"]["all"]
    assert everything["counts"]["required"] == DEVICES
    assert everything["counts"] == asdict(live.counts())  # the same, kept up to date step by step
    assert everything["counts"]["units"] == DEVICES // PER_SITE
    assert 0.9 * 31 * DEVICES < everything["period"]["required_ms"] / 86_400_000 <= 31 * DEVICES
    assert 0 < everything["period"]["faults"] <= FAILURES_EACH * DEVICES
    assert everything["counts"]["networked"] > 0
    assert page.count("<section>") == 7
    assert "更正" not in page
    assert "M1" in office
    assert took < CPU_S_AT_MOST
