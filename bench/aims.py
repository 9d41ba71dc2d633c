"""What the project set itself, each with the figure that answers it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from bench.samples import Sample

FLOOR_A, FLOOR_B, OURS, WATCHED = "floor a", "floor b", "ours", "ours, watched"
FEW = "ours, 100 devices"
DC09, NMEA = "decode dc09", "decode nmea"
ALONE, BUSY, FLOOD, ENDURE, COUNT = "steady 50/s", "steady 1000/s", "flood", "endure", "devices"

Figure = Callable[[Sequence[Sample]], list[float]]


def each(load: str, system: str, figure: str) -> Figure:
    """One value a round."""

    def found(samples: Sequence[Sample]) -> list[float]:
        return [
            sample.figures[figure]
            for sample in samples
            if (sample.load, sample.system) == (load, system) and figure in sample.figures
        ]

    return found


def ratio(load: str, figure: str, over: str, under: str) -> Figure:
    """`over` divided by `under`, round by round: what disturbs the machine disturbs both."""

    def found(samples: Sequence[Sample]) -> list[float]:
        pairs = zip(each(load, over, figure)(samples), each(load, under, figure)(samples), strict=False)
        return [above / below for above, below in pairs if below]

    return found


def against_fastest(load: str, figure: str, *peers: str) -> Figure:
    """Ours divided by the least of the peers, round by round."""

    def found(samples: Sequence[Sample]) -> list[float]:
        by_round = zip(*(each(load, peer, figure)(samples) for peer in peers), strict=True)
        return [ours / min(theirs) for ours, theirs in zip(each(load, OURS, figure)(samples), by_round, strict=True)]

    return found


def growth(load: str, figure: str, over: str, under: str) -> Figure:
    """By how many percent."""
    return lambda samples: [(value - 1) * 100 for value in ratio(load, figure, over, under)(samples)]


def worst(figure: Figure) -> Figure:
    """Where one is enough to miss the aim."""

    def found(samples: Sequence[Sample]) -> list[float]:
        values = figure(samples)
        return [max(values)] if values else []

    return found


@dataclass(frozen=True, slots=True)
class Aim:
    """`figure` must not be more than `limit`, or not less where `at_least`."""

    what: str
    figure: Figure
    limit: float
    unit: str = ""
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """An aim with what came out: the median of the rounds, and their range."""

    what: str
    value: float
    lowest: float
    highest: float
    aim: str
    met: bool

    def row(self) -> dict[str, Any]:
        return asdict(self)


AIMS = (
    Aim("1 000/s: p50 against floor a", ratio(BUSY, "p50_ms", OURS, FLOOR_A), 1.5, "x"),
    Aim("1 000/s: p99 against floor a", ratio(BUSY, "p99_ms", OURS, FLOOR_A), 2, "x"),
    Aim("flood: events a second", each(FLOOD, OURS, "per_s"), 12_000, "/s", at_least=True),
    Aim("flood, stretch: events a second", each(FLOOD, OURS, "per_s"), 20_000, "/s", at_least=True),
    Aim("flood: events lost", worst(each(FLOOD, OURS, "lost")), 0),
    Aim("flood: events doubled", worst(each(FLOOD, OURS, "doubled")), 0),
    Aim("10 000/s: p50", each(ENDURE, OURS, "p50_ms"), 10, "ms"),
    Aim("10 000/s: events lost or still open", worst(each(ENDURE, OURS, "lost")), 0),
    Aim("1 000/s: CPU per event against floor b", ratio(BUSY, "cpu_us", OURS, FLOOR_B), 1.5, "x"),
    Aim("flood: CPU per event", each(FLOOD, OURS, "cpu_us"), 60, "us"),
    Aim("alone (50/s): syncs per event", each(ALONE, OURS, "syncs"), 1),
    Aim("flood: syncs per event", each(FLOOD, OURS, "syncs"), 0.1),
    Aim("1 000/s watched (scrape, 5 listeners, pager): p99 grows", growth(BUSY, "p99_ms", WATCHED, OURS), 20, "%"),
    Aim("idle, 10 000 devices: CPU", each("idle", OURS, "cpu_percent"), 1, "% of a core"),
    Aim("idle, 10 000 devices: memory", each("idle", OURS, "rss_mb"), 120, "MiB"),
    Aim("CPU per event, 10 000 devices against 100", ratio(COUNT, "cpu_us", OURS, FEW), 1.1, "x"),
    Aim("Modbus TCP, 500 devices at 5/s: latest poll", worst(each("polls", OURS, "late_max_ms")), 10, "ms"),
    Aim("Modbus TCP: requests per contiguous range", each("polls", OURS, "requests_per_poll"), 1),
    Aim("/metrics, 10 000 devices", each("/metrics", OURS, "scrape_ms"), 20, "ms"),
    Aim("/metrics: longest stall of the loop", worst(each("/metrics", OURS, "stall_ms")), 5, "ms"),
    Aim(
        "reading a DC-09 event, against the fastest peer",
        against_fastest(DC09, "us_per_frame", "siadc09", "pysiaalarm"),
        1,
        "x",
    ),
    Aim("reading an NMEA sentence, against pynmeagps", against_fastest(NMEA, "us_per_frame", "pynmeagps"), 1, "x"),
    Aim("coverage: full recount of 10 000 points, CPU", each("coverage", OURS, "recount_ms"), 100, "ms"),
    Aim("start to ready, 10 000 devices", each("start", OURS, "start_s"), 1.5, "s"),
)


def answers(samples: Sequence[Sample]) -> list[Answer]:
    """Those that were measured."""
    found = []
    for aim in AIMS:
        values = aim.figure(samples)
        if not values:
            continue
        value = median(values)
        met = value >= aim.limit if aim.at_least else value <= aim.limit
        text = f"{'at least' if aim.at_least else 'at most'} {aim.limit:g} {aim.unit}".strip()
        found.append(Answer(aim.what, value, min(values), max(values), text, met))
    return found
