"""The site file: one TOML file, checked as a whole before anything starts, every mistake named with its line."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from gateway.errors import ConfigError, Problem
from gateway.kinds import Lane
from gateway.secret import Secret

LINK_SCHEMES = {
    "tcp": "tcp://HOST:PORT dials out",
    "tcp-listen": "tcp-listen://HOST:PORT waits for devices that dial in",
    "udp-listen": "udp-listen://HOST:PORT waits for datagrams",
    "serial": "serial:///dev/ttyUSB0?baud=9600 opens a serial port",
    "mqtt": "mqtt://broker uses the [broker] of this file",
    "modbus+tcp": "modbus+tcp://HOST:PORT polls a Modbus TCP server",
    "modbus+rtu": "modbus+rtu:///dev/ttyUSB0?baud=9600&parity=N polls a Modbus RTU line",
}

TOPIC_BYTES_MAX = 65_535
"""MQTT 3.1.1, 4.7.3."""


def _link(value: str) -> str:
    scheme = urlsplit(value).scheme
    if scheme not in LINK_SCHEMES:
        raise ValueError("one of " + "; ".join(LINK_SCHEMES.values()))
    return value


def _address(value: str) -> str:
    if not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:\s]+):\d{1,5}", value) or int(value.rpartition(":")[2]) > 65_535:
        raise ValueError("HOST:PORT")
    try:
        value.rpartition(":")[0].encode(
            "idna"
        )  # as the resolver will; an empty or endless label fails there only at run time
    except UnicodeError as error:
        raise ValueError(f"HOST:PORT with a host name that can be looked up ({error})") from None
    return value


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,31}", value):
        raise ValueError("1 to 32 lower-case letters, digits, '-' and '_', not '-' or '_' first")
    return value


def _account(value: str) -> str:
    if not re.fullmatch(r"[0-9A-Fa-f]{3,16}", value):
        raise ValueError("3 to 16 hex digits")
    return value


def _topic_filter(value: str) -> str:
    levels = value.split("/")
    if (
        not value
        or len(value.encode()) > TOPIC_BYTES_MAX
        or any("#" in level for level in levels[:-1])
        or any("+" in level or "#" in level for level in levels if len(level) > 1)
    ):
        raise ValueError("an MQTT topic filter: + stands for one whole level, # for all that follow, at the end only")
    if not value.isprintable() or value != value.strip():  # it becomes a line of the broker's access list
        raise ValueError("an MQTT topic filter of printable characters, without blanks around it")
    return value


Name = Annotated[str, AfterValidator(_name)]
"""Names become metric labels and file names: lower case, digits, '-' and '_', at most 32."""
Link = Annotated[str, AfterValidator(_link)]
Address = Annotated[str, AfterValidator(_address)]
TopicFilter = Annotated[str, AfterValidator(_topic_filter)]
"""MQTT 3.1.1, 4.7."""


Hours = Annotated[float, Field(ge=0, le=8784)]
Days = Annotated[int, Field(ge=1, le=366)]


class Section(BaseModel):
    """A table of the site file: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class GatewaySection(Section):
    """The box itself."""

    name: Name = "box"
    data_dir: Path = Path("var")
    language: Literal["zh-CN", "en"] = "zh-CN"
    account: Annotated[str, AfterValidator(_account)] = "0000"
    """DC-09 account under which the box reports its own faults."""
    profiles_dir: Path | None = None
    """Own device profiles, beside those that ship."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class ApiSection(Section):
    """HTTP. Loopback unless this file says otherwise."""

    listen: Address = "127.0.0.1:8110"
    token_file: Path | None = None
    """A file with the box's own token, mode 0600: an administrator's, for the commands of this box."""
    metrics_without_token: bool = True


GATEWAY_USER = "fangkong-gateway"
"""Our own name at our own broker."""


class BrokerSection(Section):
    """The MQTT broker: somebody else's by `url`, else one of our own as a supervised child."""

    url: str | None = None
    listen: Address = "127.0.0.1:1883"
    username: str | None = None
    password_file: Path | None = None
    version: Literal["auto", "3.1.1", "5"] = "auto"
    passwords: dict[str, Path] = Field(default_factory=dict)
    """Own broker only: device user name -> file with its password (mode 0600; made when missing). One per device or bridge."""
    topics: dict[str, tuple[TopicFilter, ...]] = Field(default_factory=dict)
    """Own broker only: user name -> topic filters it may use. Without: `fangkong/v1/NAME/#` and `NAME/#`."""

    @field_validator("passwords")
    @classmethod
    def _of_plain_names(cls, passwords: dict[str, Path]) -> dict[str, Path]:
        # A name becomes a line of the broker's files and a part of topic filters.
        for user in passwords:
            if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", user) or user == GATEWAY_USER:
                expected = f"letters, digits, '_', '.', '-', at most 64, not {GATEWAY_USER}"
                raise ValueError(f"user names of {expected}, which {user[:80]!r} is not")
        return passwords

    @field_validator("topics")
    @classmethod
    def _of_known_users(cls, topics: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if strangers := sorted(topics.keys() - info.data.get("passwords", topics).keys()):
            raise ValueError(f"users who stand in broker.passwords, which {', '.join(strangers)} does not")
        return topics


class StoreSection(Section):
    """The disk."""

    budget_mb: Annotated[int, Field(ge=16, le=1_000_000)] = 2048
    retention_days: Annotated[int, Field(ge=1, le=36_500)] = 730
    positions_days: Annotated[int, Field(ge=1, le=36_500)] = 90
    """Positions and other bulk, if that is less: where a vehicle was is nobody's business for as long as an alarm is."""
    grants_days: Annotated[int, Field(ge=1, le=36_500)] = 30
    """Who was let through which door and when, if that is less; what was raised at the door keeps its own time."""


class StormsSection(Section):
    """What of a source's words is sent on when it repeats itself or says too much. Everything is stored in any case."""

    window_s: Annotated[float, Field(ge=0, le=300)] = 10.0
    """Identical alarms of one zone within it become one alarm and a counted summary; 0: never."""
    burst: Annotated[int, Field(ge=1, le=100_000)] = 60
    """Per source and lane: events sent at once. A panel with all its zones in alarm fits in."""
    per_s: Annotated[float, Field(gt=0, le=100_000)] = 2.0
    """And then, for as long as it lasts."""
    life_burst: Annotated[int, Field(ge=10, le=100_000)] = 30
    """The same for panic, hold-up, fire: ten presses always arrive."""
    life_per_s: Annotated[float, Field(gt=0, le=100_000)] = 1.0


class GraceSection(Section):
    """Hours that a gap may last before it becomes a deficiency; days are written as hours, 0 is at once."""

    not_planned: Hours = 24.0
    not_installed: Hours = 24.0
    not_accepted: Hours = 72.0
    out_of_service: Hours = 24.0
    silent: Hours = 4.0
    fault: Hours = 24.0
    unreachable: Hours = 4.0
    bypassed: Hours = 12.0
    untested: Hours = 24.0
    not_networked: Hours = 4.0
    not_inspected: Hours = 24.0
    inspection_failed: Hours = 0.0


class DueSection(Section):
    """Days within which a deficiency has to be put right, by its risk."""

    high: Days = 3
    """A site of the target or a key unit, or a panic button anywhere."""
    medium: Days = 14
    """Any other technical measure."""
    low: Days = 30
    """A physical measure."""


class LiveTestSection(Section):
    """How often a person must trigger a kind of device; what is not said is as shipped (gateway/coverage/contracts.py)."""

    live_test_days: Days | None = None
    grace_days: Annotated[int, Field(ge=0, le=366)] | None = None
    """An overdue live test counts as degraded for so long."""


class ContractSection(LiveTestSection):
    """And how long it may be unheard."""

    heard_within_s: Annotated[float, Field(ge=1, le=31 * 86_400)] | None = None


class ContractsSection(Section):
    """What a kind of device owes, for those that are not as shipped."""

    panel: ContractSection = ContractSection()
    detector: ContractSection = ContractSection()
    radio_sensor: ContractSection = ContractSection()
    radio_code: LiveTestSection = LiveTestSection()
    """It never checks in."""
    panic_button: ContractSection = ContractSection()
    door_controller: ContractSection = ContractSection()
    perimeter_controller: ContractSection = ContractSection()
    vehicle_unit: ContractSection = ContractSection()
    bus_gateway: ContractSection = ContractSection()
    mqtt_bridge: ContractSection = ContractSection()
    siren: ContractSection = ContractSection()


class CoverageSection(Section):
    """What is counted how, and when a gap becomes somebody's task (docs/coverage.md)."""

    target_kinds: Annotated[tuple[Name, ...], Field(max_length=50)] = (
        "bank_branch",
        "jewelry_store",
        "cash_heavy_unit",
    )
    """Kinds of site of which every one must have all its mandatory technical measures installed."""
    proof_key_unit_h: Annotated[float, Field(ge=1, le=8784)] = 24.0
    """A key unit is networked for so long after its last proof at the receiving centre."""
    proof_h: Annotated[float, Field(ge=1, le=8784)] = 168.0
    """Any other site."""
    contract: ContractsSection = ContractsSection()
    grace_h: GraceSection = GraceSection()
    due_days: DueSection = DueSection()


HOUR = r"^([01]\d|2[0-3]):[0-5]\d$"
"""As people write it: 07:30, local time (UTC+8, all the year)."""


class SelfTestSection(Section):
    """Once a month the devices of a site that can, test themselves (docs/commissioning.md)."""

    site: Annotated[str, Field(min_length=1, max_length=64)]
    day: Annotated[int, Field(ge=1, le=28)] = 1
    """Of the month; every month has 28."""
    at: Annotated[str, Field(pattern=HOUR)] = "10:00"
    quiet_from: Annotated[str, Field(pattern=HOUR)] = "21:00"
    """From here to `quiet_to`, over midnight where that is earlier, no test begins: a siren is none of the night."""
    quiet_to: Annotated[str, Field(pattern=HOUR)] = "08:00"


Steps = tuple[
    Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]
]
"""From where on it is blue, yellow, orange, red."""


class ReportsSection(Section):
    """The monthly bulletin: what is promised, and from where on it warns (docs/reports.md). Whole numbers, for what is
    published is kept without fractions."""

    cell_min: Annotated[int, Field(ge=5, le=100)] = 5
    """The public edition shows no smaller number of a class."""
    target_permille: Annotated[int, Field(ge=1, le=1000)] = 1000
    """Effective coverage that is promised."""
    shortfall_permille: Steps = (1, 50, 100, 200)
    """Below it."""
    alarm_load_percent: Steps = (120, 150, 200, 300)
    """Alarms of the last week, of their own mean over the 15 weeks before."""
    alarms_min: Annotated[int, Field(ge=1)] = 10
    """Alarms of a week that are too few to warn of, whatever the mean."""
    critical_days: Steps = (1, 3, 7, 30)
    """For so long a critical deficiency has been open."""
    faults_to: Annotated[str, Field(max_length=200)] = ""
    """Where people report faults of equipment, as the notice board says it: an office and its phone."""


DOORS_MAX = 2000
"""Doors of one box; each is looked at once a second, in a microsecond."""


class DoorPart(Section):
    """A device, or one zone of it."""

    device: Annotated[str, Field(min_length=1, max_length=64)]
    zone: Annotated[int, Field(ge=0, le=999)] | None = None
    """None: whatever zone it reports."""

    def __str__(self) -> str:
        return self.device if self.zone is None else f"{self.device} zone {self.zone}"


class DoorSection(Section):
    """What makes one door, so that what follows from its parts can be derived (`gateway.rules.doors`)."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    contact: DoorPart
    """Reports `door_open`; what is derived is reported in its name."""
    lock: DoorPart | None = None
    """Reports `unlocked`, and is told to open."""
    exit: Annotated[tuple[DoorPart, ...], Field(max_length=8)] = ()
    readers: Annotated[tuple[DoorPart, ...], Field(max_length=8)] = ()
    group: Annotated[str, Field(max_length=64)] = ""
    """Doors of one group must not stand open together (interlock)."""
    unlock_s: Annotated[float, Field(ge=1, le=300)] = 8.0
    """So long after a grant or the exit button it may be opened."""
    held_open_s: Annotated[float, Field(ge=1, le=3600)] = 30.0
    late_s: Annotated[float, Field(ge=0, le=10)] = 0.0
    """So much later than the opening a grant may be heard, where the reader's line is slower than the contact's."""
    denials: Annotated[int, Field(ge=2, le=20)] = 5
    denials_within_s: Annotated[float, Field(ge=10, le=3600)] = 60.0


class ConnectionSection(Section):
    """One line to devices."""

    name: Name
    driver: Annotated[str, Field(min_length=1)]
    link: Link
    settings: dict[str, Any] = Field(default_factory=dict)


class DestinationSection(Section):
    """One receiver of events."""

    name: Name
    forwarder: Annotated[str, Field(min_length=1)]
    lanes: tuple[Literal["life", "alarm", "fault", "status", "bulk"], ...] = ("life", "alarm", "fault")
    settings: dict[str, Any] = Field(default_factory=dict)

    @property
    def lane_set(self) -> frozenset[Lane]:
        return frozenset(Lane[lane.upper()] for lane in self.lanes)


class SiteFile(Section):
    """The whole file."""

    gateway: GatewaySection = GatewaySection()
    api: ApiSection = ApiSection()
    broker: BrokerSection = BrokerSection()
    store: StoreSection = StoreSection()
    storms: StormsSection = StormsSection()
    coverage: CoverageSection = CoverageSection()
    reports: ReportsSection = ReportsSection()
    connection: tuple[ConnectionSection, ...] = ()
    destination: tuple[DestinationSection, ...] = ()
    door: Annotated[tuple[DoorSection, ...], Field(max_length=DOORS_MAX)] = ()
    self_test: Annotated[tuple[SelfTestSection, ...], Field(max_length=1000)] = ()

    @field_validator("door")
    @classmethod
    def _each_part_of_one_door(cls, doors: tuple[DoorSection, ...]) -> tuple[DoorSection, ...]:
        # A lock or an exit button may serve two wings; who was let through at a reader must be clear.
        for what, parts in (
            ("name", [door.name for door in doors]),
            ("contact", [str(door.contact) for door in doors]),
            ("reader", [str(reader) for door in doors for reader in door.readers]),
        ):
            if twice := [part for part, count in Counter(parts).items() if count > 1]:
                raise ValueError(f"each {what} at one door only: {twice[0]} is there twice")
        return doors

    def data_dir(self, base: Path) -> Path:
        """The data directory, relative paths counted from the site file's folder."""
        return base / self.gateway.data_dir


# -- reading -----------------------------------------------------------------------------------------------------------

Loc = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)


def read_toml(path: Path) -> tuple[dict[str, Any], dict[Loc, int]]:
    """The parsed file and the line of each table and key. Raises ConfigError."""
    return parse_toml(read_text(path), path)


def read_text(path: Path) -> str:
    """Raises ConfigError."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        found = error.strerror or str(error)
        raise ConfigError([Problem(str(path), None, "file", found, "a readable file", "文件无法读取")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(str(path), None, "file", str(error), "UTF-8", "文件应为 UTF-8 编码")]) from error


def parse_toml(text: str, path: Path) -> tuple[dict[str, Any], dict[Loc, int]]:
    """What `read_toml` gives, of a text that was read already."""
    try:
        return tomllib.loads(text), toml_lines(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"line (\d+)", str(error))
        line = int(place[1]) if place else None
        raise ConfigError([Problem(str(path), line, "syntax", str(error), "valid TOML", "TOML 语法错误")]) from error


_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]#]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"""^\s*([A-Za-z0-9_\-."']+)\s*=""")


def toml_lines(text: str) -> dict[Loc, int]:
    """Line numbers of tables and keys, as paths; tomllib gives none. Keys inside inline tables fall back to their parent."""
    lines: dict[Loc, int] = {}
    counts: dict[Loc, int] = {}
    table: Loc = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            path: Loc = ()
            names = [name.strip().strip("\"'") for name in header[2].split(".")]
            for depth, name in enumerate(names):
                path += (name,)
                is_last = depth == len(names) - 1
                if is_last and header[1] == "[[":
                    counts[path] = counts.get(path, -1) + 1
                if path in counts:
                    path += (counts[path],)
            table = path
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            lines.setdefault(table + tuple(part.strip().strip("\"'") for part in key[1].split(".")), number)
    return lines


def line_of(lines: Mapping[Loc, int], loc: Loc) -> int | None:
    """The line of the nearest enclosing thing that has one."""
    while loc:
        if loc in lines:
            return lines[loc]
        loc = loc[:-1]
    return None


def load_site_file(path: Path) -> SiteFile:
    """Read and check. Raises ConfigError with every mistake."""
    return check_site_file(*parse_toml(read_site_text(path), path), path)


def read_site_text(path: Path) -> str:
    """Raises ConfigError."""
    if not path.exists():
        hint = "fangkong init writes one, --config FILE names one 请先运行 fangkong init"
        raise ConfigError([Problem(str(path), None, "file", "does not exist", "a site file", hint)])
    return read_text(path)


def check_site_file(content: Mapping[str, Any], lines: Mapping[Loc, int], path: Path) -> SiteFile:
    """The site file of what `parse_toml` gave. Raises ConfigError with every mistake."""
    site, problems = check_model(SiteFile, content, file=str(path), lines=lines)
    if site is not None:
        problems += [
            *_twice(site.connection, "connection", path, lines),
            *_twice(site.destination, "destination", path, lines),
        ]
    if problems:
        raise ConfigError(problems)
    assert site is not None
    return site


def _twice(
    sections: Sequence[ConnectionSection | DestinationSection], table: str, path: Path, lines: Mapping[Loc, int]
) -> list[Problem]:
    seen: set[str] = set()
    problems = []
    for index, section in enumerate(sections):
        if section.name in seen:
            problems.append(
                Problem(
                    str(path), line_of(lines, (table, index, "name")), f"{table}.name", f'"{section.name}" is there twice',
                    "a name of its own", f"rename one [[{table}]] 请改名",
                )
            )  # fmt: skip
        seen.add(section.name)
    return problems


def check_model(
    model: type[M], content: Mapping[str, Any], *, file: str, lines: Mapping[Loc, int], at: Loc = ()
) -> tuple[M | None, list[Problem]]:
    """Validate `content`, which stands at `at` in the file; all mistakes as problems with line, key and a spelling hint."""
    try:
        checked = model.model_validate(content)
    except ValidationError as error:
        problems = []
        for item in error.errors(include_url=False):
            loc: Loc = at + tuple(item["loc"])
            key = ".".join(str(part) for part in loc) or "file"
            expected, hint = _expected(model, item["loc"], item["type"], item["msg"])
            problems.append(
                Problem(file, line_of(lines, loc), key, _found(item["type"], item["input"]), expected, hint)
            )
        return None, problems
    return checked, []


def _found(kind: str, value: object) -> str:
    if kind == "extra_forbidden":
        return "unknown key"
    if kind == "missing":
        return "missing"
    return f"found {value!r}"[:120]


def _expected(model: type[BaseModel], loc: Loc, kind: str, message: str) -> tuple[str, str]:
    if kind == "missing":
        return "this key", "缺少此项"
    if kind != "extra_forbidden":
        return message.removeprefix("Value error, ").removeprefix("Input should be ").removeprefix(
            "a valid "
        ), "取值不符"
    names = _names_beside(model, loc)
    near = difflib.get_close_matches(str(loc[-1]), names, n=1, cutoff=0.6)
    hint = f'did you mean "{near[0]}"? 是否应为 "{near[0]}"?' if near else "没有这个配置项"
    return "one of " + ", ".join(sorted(names)), hint


def _names_beside(model: type[BaseModel], loc: Loc) -> list[str]:
    """The field names that would have been right where the unknown key stands."""
    here: object = model
    for part in loc[:-1]:
        if isinstance(part, int):
            continue
        if not (isinstance(here, type) and issubclass(here, BaseModel)) or part not in here.model_fields:
            return []
        here = _model_in(here.model_fields[part].annotation)
    return list(here.model_fields) if isinstance(here, type) and issubclass(here, BaseModel) else []


def _model_in(annotation: object) -> object:
    """The model class inside tuple[...], list[...], dict[str, ...] or X | None."""
    if get_origin(annotation) is None:
        return annotation
    for inner in get_args(annotation):
        found = _model_in(inner)
        if isinstance(found, type) and issubclass(found, BaseModel):
            return found
    return annotation


# -- secrets -----------------------------------------------------------------------------------------------------------


def read_secret(path: Path) -> Secret:
    """The first line of a file that only its owner may read. Raises ConfigError."""
    try:
        mode = path.stat().st_mode & 0o777
        value = path.read_text(encoding="utf-8").split("\n", 1)[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        found, hint = getattr(error, "strerror", None) or str(error), "密钥文件无法读取"
        raise ConfigError([Problem(str(path), None, "secret", found, "a readable file with one line", hint)]) from error
    if mode & 0o077:
        hint = f"chmod 600 {path} 请收紧权限"
        raise ConfigError([Problem(str(path), None, "secret", f"mode {mode:04o}", "mode 0600", hint)])
    if not value:
        raise ConfigError([Problem(str(path), 1, "secret", "empty", "one line with the secret", "密钥文件为空")])
    return Secret(value)
