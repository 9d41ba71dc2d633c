"""A scenario: which devices there are, who does what when, what must arrive. One TOML file, seeded, repeatable.

[[device]]   simulator, id ("a{n:03}"), count, first, connect, options
[[step]]     at_s, device, do, zone, restore_after_s: one act at one moment
[[traffic]]  devices ("a*"), do, zones, every_s (mean), hold_s, from_s, until_s: acts drawn by the seed
[[centre]]   at_s, send: one line to the control port of the simulated 110 centre
[[expect]]   account, code, qualifier, zone, count: what the centre's record must hold in the end
[[operator]] at_s, run: one command of `fangkong` at the gateway's box
[[figure]]   at_s, within_s, node, of_s, counts, gaps, via, deficiencies: what the gateway must count by then
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from simulators._world import Option

DEVICES_MAX = 5000
"""One process and one machine; beyond it split the scenario."""


class ScenarioError(Exception):
    """The file cannot be used; the message names each mistake with its line."""


class Table(BaseModel):
    """Unknown keys are mistakes."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)


class DeviceTable(Table):
    """`count` devices of one kind; `{n}` in `id` and `connect` is the running number, other `{names}` come from --set."""

    simulator: str
    id: str
    connect: str
    count: int = Field(1, ge=1, le=DEVICES_MAX)
    first: int = Field(1, ge=0)
    options: dict[str, Option] = {}


class StepTable(Table):
    """One act."""

    at_s: float = Field(ge=0)
    device: str
    do: str
    zone: int | None = None
    restore_after_s: float | None = Field(None, gt=0)


class TrafficTable(Table):
    """Acts at random moments, each a condition that holds for a while and is then restored (momentary kinds are not)."""

    devices: str
    do: tuple[str, ...] = Field(min_length=1)
    zones: tuple[int, ...] = ()
    every_s: float = Field(gt=0)
    hold_s: tuple[float, float] | None = None
    from_s: float = Field(0, ge=0)
    until_s: float | None = None


class CentreTable(Table):
    """One line to the centre's control port."""

    at_s: float = Field(ge=0)
    send: dict[str, Option]


class ExpectTable(Table):
    """How often the centre must have accepted this, in the end: at least `count` times."""

    account: str
    code: str
    zone: int | None = None
    qualifier: int = 1
    count: int = Field(1, ge=0)


class OperatorTable(Table):
    """One command of `fangkong`, word by word, without --config. `{today}` and `{tomorrow}` are filled in."""

    at_s: float = Field(ge=0)
    run: tuple[str, ...] = Field(min_length=1)


class FigureTable(Table):
    """What the gateway must count: looked at from `at_s` on, for at most `within_s`, until all of it is so."""

    at_s: float = Field(ge=0)
    within_s: float = Field(10, gt=0)
    node: str = "all"
    counts: dict[str, int] = {}
    """As the API names them: required, installed, working, networked, waived, ..."""
    of_s: float | None = None
    """The counts of another moment, in seconds from the scenario's begin; left out: of now. One that is to come is as it will
    be if nothing more happens."""
    gaps: dict[str, int] | None = None
    """So many requirements that are not met for this reason."""
    via: str | None = None
    """What all that is unreachable is unreachable through."""
    deficiencies: dict[str, int] | None = None
    """So many that are open, by their gap."""


class Scenario(Table):
    """The whole file."""

    seed: int
    device: tuple[DeviceTable, ...] = Field(min_length=1)
    step: tuple[StepTable, ...] = ()
    traffic: tuple[TrafficTable, ...] = ()
    centre: tuple[CentreTable, ...] = ()
    expect: tuple[ExpectTable, ...] = ()
    operator: tuple[OperatorTable, ...] = ()
    figure: tuple[FigureTable, ...] = ()

    @property
    def needs_desk(self) -> bool:
        """Whether somebody has to sit at the gateway's box."""
        return bool(self.operator or self.figure)


class Planned(Table):
    """One act at its moment."""

    at_s: float
    device: str
    do: str
    zone: int | None = None
    restore: bool = False


def load(path: Path) -> Scenario:
    """Read and check. Raises ScenarioError naming file, line, key and what was expected, for every mistake."""
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        raise ScenarioError(f"{path}:{line[1] if line else 1}: {error}") from error
    try:
        scenario = Scenario.model_validate(content)
    except ValidationError as error:
        mistakes = [
            f"{path}:{_line(text, item['loc'])}: {'.'.join(map(str, item['loc']))}: {item['msg']}"
            for item in error.errors()
        ]
        raise ScenarioError("\n".join(mistakes)) from error
    mistakes = [f"{path}:{_line(text, loc)}: {'.'.join(map(str, loc))}: {what}" for loc, what in _mistakes(scenario)]
    if mistakes:
        raise ScenarioError("\n".join(mistakes))
    return scenario


def _mistakes(scenario: Scenario) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What only the whole file shows, each with the key it stands at."""
    names: Counter[str] = Counter()
    for index, table in enumerate(scenario.device):
        if not hasattr(_module(table.simulator), "make"):
            yield (
                ("device", index, "simulator"),
                f"no simulator {table.simulator!r}; expected one of {', '.join(simulators())}",
            )
        try:
            found = ids_of(table)
        except (LookupError, ValueError) as error:
            yield ("device", index, "id"), f"{table.id!r}: {error!r}; expected a name with at most {{n}} in it"
            continue
        names.update(found)
        if twice := [name for name in found if names[name] > 1]:
            yield ("device", index, "id"), f"{twice[0]!r} is there twice; expected a name of its own for each device"
    for index, step in enumerate(scenario.step):
        if step.device not in names:
            yield ("step", index, "device"), f"no device {step.device!r}; expected one of [[device]]"
    for index, traffic in enumerate(scenario.traffic):
        if not any(fnmatchcase(name, traffic.devices) for name in names):
            yield ("traffic", index, "devices"), f"no device is like {traffic.devices!r}; expected one of [[device]]"


def _module(simulator: str) -> object:
    return importlib.import_module(f"simulators.{simulator}") if simulator in _modules() else None


def _modules() -> Sequence[str]:
    package = importlib.import_module("simulators")
    return sorted(info.name for info in pkgutil.iter_modules(package.__path__) if not info.name.startswith("_"))


def simulators() -> Sequence[str]:
    """The modules that can be a device."""
    return [name for name in _modules() if hasattr(_module(name), "make")]


def ids_of(table: DeviceTable) -> Sequence[str]:
    """The id of each device of the table."""
    return [table.id.format(n=n) for n in range(table.first, table.first + table.count)]


def devices_of(table: DeviceTable, settings: Mapping[str, str]) -> Sequence[tuple[str, str]]:
    """(id, connect) of each device of the table. Raises ScenarioError for a name in `connect` that nothing fills."""
    numbers = range(table.first, table.first + table.count)
    try:
        connects = [table.connect.format(n=n, **settings) for n in numbers]
    except (LookupError, ValueError) as error:
        name = error.args[0]
        raise ScenarioError(f"connect = {table.connect!r}: nothing for {name!r}; give --set {name}=VALUE") from error
    return list(zip(ids_of(table), connects, strict=True))


def acts(scenario: Scenario, *, until_s: float) -> Sequence[Planned]:
    """Everything that will be done before `until_s`, in order. Same seed, same acts."""
    planned: list[Planned] = []
    for step in scenario.step:
        planned.append(Planned(at_s=step.at_s, device=step.device, do=step.do, zone=step.zone))
        if step.restore_after_s is not None:
            at_s = step.at_s + step.restore_after_s
            planned.append(Planned(at_s=at_s, device=step.device, do=step.do, zone=step.zone, restore=True))
    names = [name for table in scenario.device for name in ids_of(table)]
    for index, traffic in enumerate(scenario.traffic):
        planned += _traffic(traffic, names, Random(f"{scenario.seed}/{index}"), until_s)
    return sorted((act for act in planned if act.at_s < until_s), key=lambda act: act.at_s)


def _traffic(traffic: TrafficTable, names: Sequence[str], random: Random, until_s: float) -> Sequence[Planned]:
    devices = [name for name in names if fnmatchcase(name, traffic.devices)]
    busy: dict[tuple[str, str, int | None], float] = {}
    planned: list[Planned] = []
    end_s = min(until_s, traffic.until_s if traffic.until_s is not None else until_s)
    at_s = traffic.from_s + random.expovariate(1 / traffic.every_s)
    while at_s < end_s and devices:
        device, do = random.choice(devices), random.choice(traffic.do)
        zone = random.choice(traffic.zones) if traffic.zones else None
        if busy.get((device, do, zone), -1.0) < at_s:
            planned.append(Planned(at_s=at_s, device=device, do=do, zone=zone))
            if traffic.hold_s is not None:
                until = at_s + random.uniform(*traffic.hold_s)
                planned.append(Planned(at_s=until, device=device, do=do, zone=zone, restore=True))
                # The restored state holds as long again, so that a slow poll or a restart cannot miss it.
                busy[device, do, zone] = until + traffic.hold_s[0]
        at_s += random.expovariate(1 / traffic.every_s)
    return planned


def missing(scenario: Scenario, received: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    """The expectations that the centre's record does not meet, in words."""
    complaints = []
    for expected in scenario.expect:
        found = {
            row["id"] or row["key"]
            for row in received
            if row["account"] == expected.account
            and row["code"] == expected.code
            and int(row["qualifier"]) == expected.qualifier
            and (expected.zone is None or int(row["zone"]) == expected.zone)
        }
        if len(found) < expected.count:
            where = f"account {expected.account} code {expected.qualifier}{expected.code} zone {expected.zone}"
            complaints.append(f"{where}: expected {expected.count}, the centre has {len(found)}")
    return complaints


def _line(text: str, loc: Sequence[int | str]) -> int:
    """The line of a key in `[[table]]` number n, or of the table when the key is not there."""
    table, index = str(loc[0]), loc[1] if len(loc) > 1 and isinstance(loc[1], int) else 0
    key = str(loc[2]) if len(loc) > 2 else None
    seen, found = -1, 1
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith(f"[[{table}]]"):
            seen += 1
            if seen == index:
                found = number
        elif stripped.startswith("["):
            if seen == index:
                break
        elif (seen == index and key and stripped.split("=")[0].strip() == key) or stripped.split("=")[
            0
        ].strip() == table:
            return number
    return found
