"""python -m bench [--only flood,steady] [--quick] [--rounds N] [--broker mosquitto]"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench import aims, box, coverage, decode, ledger, machine, poll, report, road
from bench.estate import Estate
from bench.road import Load, steady
from bench.samples import Sample
from bench.systems import Daemon, Failed, Floor, System

ESTATE = Estate(devices=10_000, accounts=100)
PER_LOAD_S = 1.0
"""Around each load: counters read, copies waited for, readers started."""
PER_STAGE_S = 2.5
"""Until one system stands."""


@dataclass(frozen=True, slots=True)
class Size:
    """How long everything is looked at."""

    rounds: int = 3
    alone_s: float = 3
    busy_s: float = 4
    flood: int = 30_000
    endure_s: float = 60
    idle_s: float = 20
    polls_s: float = 10
    devices_s: float = 4
    times: int = 10
    decode_s: float = 0.5
    """For each who reads, in each round."""


FULL = Size()
QUICK = Size(
    rounds=1, alone_s=2, busy_s=2, flood=10_000, endure_s=3, idle_s=5, polls_s=4, devices_s=2, times=5, decode_s=0.2
)


@dataclass(frozen=True, slots=True)
class Part:
    """Something to measure, and about how long it takes."""

    seconds: float
    run: Callable[[Path], Iterator[Sample]]


@dataclass(frozen=True, slots=True)
class Bench:
    """One run."""

    size: Size
    names: Sequence[str]
    ledgers: Path
    mosquitto: bool

    def daemon(
        self, name: str = aims.OURS, estate: Estate = ESTATE, *, is_watched: bool = False, settings: str = ""
    ) -> Daemon:
        path = self.ledgers / f"{estate.devices}.db"
        return Daemon(name, estate, path if path.exists() else ledger.write(path, estate), is_watched, settings)

    def systems(self) -> list[System]:
        return [
            Floor(aims.FLOOR_A, "bare", ESTATE),
            Floor(aims.FLOOR_B, "paho", ESTATE),
            self.daemon(),
            self.daemon(aims.WATCHED, is_watched=True),
        ]

    def loads(self) -> dict[str, Sequence[Load]]:
        """The loads that all systems carry in turn, by part."""
        size = self.size
        return {
            "steady": (steady(50, size.alone_s), steady(200, size.alone_s), steady(1000, size.busy_s)),
            "burst": (Load("burst of 5 000", 5_000, 0),),
            "flood": (Load(aims.FLOOD, size.flood, 0),),
        }

    def parts(self) -> dict[str, Part]:
        """Everything that can be measured."""
        size = self.size
        few = box.few_devices(ESTATE)
        compared = replace(steady(1000, size.devices_s), name=aims.COUNT)
        endured = replace(steady(10_000, size.endure_s), name=aims.ENDURE)
        shared = [load for name, loads in self.loads().items() if name in self.names for load in loads]
        found = {}
        if shared:
            per_round = 4 * (PER_STAGE_S + sum(load.seconds + PER_LOAD_S for load in shared))
            found["road"] = Part(size.rounds * per_round, lambda folder: self._road(folder, shared))
        found |= {
            "endure": Part(size.endure_s + PER_STAGE_S, lambda folder: self._endure(folder, endured)),
            "devices": Part(
                2 * (PER_STAGE_S + size.rounds * (size.devices_s + PER_LOAD_S)),
                lambda folder: box.devices(
                    self.daemon(aims.FEW, few, settings=box.NO_STORMS),
                    self.daemon(settings=box.NO_STORMS),
                    folder,
                    compared,
                    size.rounds,
                ),
            ),
            "idle": Part(size.idle_s + PER_STAGE_S, lambda folder: box.rest(self.daemon(), folder, size.idle_s)),
            "metrics": Part(
                size.times / 2 + PER_STAGE_S, lambda folder: box.scrapes(self.daemon(), folder, size.times)
            ),
            "start": Part(2 * size.rounds + 4, lambda folder: box.starts(self.daemon(), folder, size.rounds + 2)),
            "modbus": Part(size.polls_s + 8, lambda folder: poll.polls(self.daemon(estate=few), folder, size.polls_s)),
            "decode": Part(
                size.rounds * decode.READERS * size.decode_s,
                lambda _: decode.decoding(size.rounds, size.decode_s),
            ),
            "coverage": Part(1.5, lambda _: coverage.counting(size.rounds)),
        }
        return {name: part for name, part in found.items() if name in self.names or name == "road"}

    def _road(self, folder: Path, loads: Sequence[Load]) -> Iterator[Sample]:
        for nth in range(self.size.rounds):
            systems = self.systems()
            with road.stage(systems, folder / str(nth), mosquitto=self.mosquitto) as peer:
                for load in loads:
                    yield from road.measure(peer, systems, load, nth)

    def _endure(self, folder: Path, load: Load) -> Iterator[Sample]:
        daemon = self.daemon()
        with road.stage([daemon], folder, mosquitto=self.mosquitto) as peer:
            yield from road.measure(peer, [daemon], load, 0)


PARTS = ("steady", "burst", "flood", "endure", "devices", "idle", "metrics", "start", "modbus", "decode", "coverage")


def main() -> int:
    arguments = _arguments()
    size = QUICK if arguments.quick else FULL
    if arguments.rounds:
        size = replace(size, rounds=arguments.rounds)
    console = Console(width=max(150, Console().width))
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory(prefix="fangkong-bench-", dir=arguments.data) as name:
        folder = Path(name)
        facts = machine.facts(folder)
        if arguments.broker:
            facts["broker"] = f"{arguments.broker}, between the sensors and every system"
        bench = Bench(size, arguments.only, folder, mosquitto=arguments.broker == "mosquitto")
        try:
            _measure(bench.parts(), folder, samples)
        except Failed as error:
            print(error, file=sys.stderr)
            return 1
    answers = aims.answers(samples)
    for table in report.tables(samples, answers):
        console.print(table)
    report.write_json(arguments.out / "results.json", facts, samples, answers)
    report.write_html(arguments.out / "report.html", facts, samples, answers)
    console.print(f"{arguments.out / 'report.html'} · {arguments.out / 'results.json'}")
    return 0


def _measure(parts: dict[str, Part], folder: Path, samples: list[Sample]) -> None:
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        bar = progress.add_task("", total=sum(part.seconds for part in parts.values()))
        done = 0.0
        for name, part in parts.items():
            progress.update(bar, description=name)
            for sample in part.run(folder / name):
                samples.append(sample)
                progress.update(bar, description=f"{sample.load}: {sample.system}")
            done += part.seconds
            progress.update(bar, completed=done)


def _arguments() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        found = text.split(",")
        if strange := sorted(set(found) - set(PARTS)):
            raise argparse.ArgumentTypeError(f"{', '.join(strange)}: expected some of {','.join(PARTS)}")
        return found

    parser = argparse.ArgumentParser(prog="python -m bench", description="The gateway beside two floors, in one run.")
    parser.add_argument("--only", type=names, default=list(PARTS), metavar="PARTS", help=f"some of {','.join(PARTS)}")
    parser.add_argument(
        "--quick",
        action="store_true",
        default=os.environ.get("QUICK", "0") not in ("", "0"),
        help="a look, in a minute",
    )
    parser.add_argument("--rounds", type=int, help="how often everything is repeated, in turn")
    parser.add_argument("--broker", choices=["mosquitto"], help="a real broker between sensors and systems: slower")
    parser.add_argument("--data", type=Path, help="where the databases lie (default: the system's folder for such)")
    parser.add_argument("--out", type=Path, default=Path("bench"), help="folder for report.html and results.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
