"""The site file together with the drivers, profiles, forwarders and secrets it names: all checked before anything starts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from gateway.config import (
    ApiSection,
    BrokerSection,
    ConnectionSection,
    DestinationSection,
    Loc,
    M,
    SiteFile,
    check_model,
    check_site_file,
    line_of,
    parse_toml,
    read_secret,
    read_site_text,
)
from gateway.credentials import FILE_NAME, KeyFile
from gateway.driver import Context
from gateway.errors import ConfigError, Problem
from gateway.links import modbus
from gateway.links.broker_url import external_address
from gateway.links.endpoint import LISTENING, Endpoint
from gateway.links.serial import SerialUrl
from gateway.loader import load_driver, load_module, load_profiles, load_secrets, load_settings
from gateway.secret import Secret

LINKS_OF = {
    "stream": {"tcp", "tcp-listen", "udp-listen", "serial"},
    "topics": {"mqtt"},
    "bus": {"modbus+tcp", "modbus+rtu"},
}
"""Which link schemes fit which shape of driver."""


def _mqtt(link: str) -> None:
    if link != "mqtt://broker":
        raise ValueError("mqtt://broker; the broker's address stands in [broker] url")


READERS: Mapping[str, Callable[[str], object]] = {
    "tcp": Endpoint.parse,
    "tcp-listen": Endpoint.parse,
    "udp-listen": Endpoint.parse,
    "serial": SerialUrl.parse,
    "mqtt": _mqtt,
    "modbus+tcp": modbus.line,
    "modbus+rtu": modbus.line,
}
"""Who reads a link in the end; asked before the start, so that no line fails for ever on a slip of the pen. Each raises
ConfigError, or ValueError with what it expected."""


@dataclass(frozen=True, slots=True)
class PlannedConnection:
    """A [[connection]] with its driver."""

    section: ConnectionSection
    driver: ModuleType
    context: Context


@dataclass(frozen=True, slots=True)
class PlannedDestination:
    """A [[destination]] with its forwarder."""

    section: DestinationSection
    forwarder: ModuleType
    settings: Any
    secrets: object = field(default=None, repr=False)
    """What the files hold that the settings name: two plans with other keys are two plans."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything the daemon needs to know before it opens a single file or socket. Parts of two plans are equal when
    settings, profiles and secrets are."""

    path: Path
    base: Path
    """Where relative paths begin."""
    text: str
    lines: Mapping[Loc, int]
    site: SiteFile
    data_dir: Path
    token: Secret | None
    credential: KeyFile
    """The key of card hashes, made when the gateway starts."""
    device_passwords: Mapping[str, Secret]
    """Of the users of our own broker, as far as they have one yet."""
    connections: tuple[PlannedConnection, ...]
    destinations: tuple[PlannedDestination, ...]

    @property
    def sha256(self) -> str:
        """Of the site file's text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def line(self, table: str, name: str, key: str) -> int | None:
        """Where a key of a [[connection]] or [[destination]] stands."""
        names = [section.name for section in getattr(self.site, table)]
        return line_of(self.lines, (table, names.index(name), key))

    def placed(self, error: ConfigError) -> ConfigError:
        """The same, with file and line where a part of the gateway knew the key only."""
        return ConfigError(
            [
                replace(problem, file=str(self.path), line=self.line_of_key(problem.key))
                if problem.file == "site file"
                else problem
                for problem in error.problems
            ]
        )

    def line_of_key(self, key: str) -> int | None:
        """Where a key of another table stands, `gateway.name` for example."""
        return line_of(self.lines, tuple(key.split(".")))


def prepare(path: Path, base: Path | None = None) -> Plan:
    """Read the site file and everything it names. Raises ConfigError with every mistake found, in the order of the file.

    `base`: where relative paths begin when not in the file's own folder, for a file that is to be put elsewhere.
    """
    base = base or path.resolve().parent
    text = read_site_text(path)
    content, lines = parse_toml(text, path)
    problems: list[Problem] = []
    site: SiteFile | None = None
    with _noting(problems):
        site = check_site_file(content, lines, path)

    # Section by section, so that a mistake in one hides none in another.
    own_profiles = _own_profiles(content, base)
    data_dir = site.data_dir(base) if site else base
    credential = KeyFile(data_dir / FILE_NAME)
    with _noting(problems), suppress(OSError):  # not there yet, or not ours to read: the start will tell
        credential.read()
    connections: list[PlannedConnection] = []
    for at, connection in _sound(ConnectionSection, content, "connection"):
        with _noting(problems):
            connections.append(_connection(connection, own_profiles, path, lines, at, base=base, credential=credential))
    destinations: list[PlannedDestination] = []
    for at, destination in _sound(DestinationSection, content, "destination"):
        with _noting(problems):
            destinations.append(_destination(destination, path, base, lines, at))
    token: Secret | None = None
    for _, api in _sound(ApiSection, content, "api"):
        with _noting(problems):
            token = read_secret(base / api.token_file) if api.token_file else None
    device_passwords: dict[str, Secret] = {}
    for _, broker in _sound(BrokerSection, content, "broker"):
        if broker.url:
            with _noting(problems), _at(path, line_of(lines, ("broker", "url")), "broker.url"):
                external_address(broker, base)
        for user, file in broker.passwords.items():
            with _noting(problems):
                if (base / file).exists():  # one that is missing is made when the broker starts
                    device_passwords[user] = read_secret(base / file)
    if site is not None:
        problems += _taken_twice(site, path, lines)
    if problems or site is None:
        raise ConfigError(sorted(problems, key=lambda problem: (problem.file != str(path), problem.line or 0)))
    return Plan(
        path, base, text, lines, site, data_dir, token, credential, device_passwords,
        tuple(connections), tuple(destinations),
    )  # fmt: skip


def _own_profiles(content: Mapping[str, Any], base: Path) -> Path | None:
    """As the file has it, also when another key of [gateway] is wrong: or profiles that are there would be missed."""
    gateway = content.get("gateway")
    folder = gateway.get("profiles_dir") if isinstance(gateway, dict) else None
    return base / folder if isinstance(folder, str) else None


def _sound(model: type[M], content: Mapping[str, Any], name: str) -> Iterator[tuple[Loc, M]]:
    """The tables of this name that are right in themselves, each with its place in the file."""
    found = content.get(name, {})
    tables = (
        {(name, index): table for index, table in enumerate(found)} if isinstance(found, list) else {(name,): found}
    )
    for at, table in tables.items():
        section, _ = check_model(model, table, file=name, lines={})
        if section is not None:
            yield at, section


def _taken_twice(site: SiteFile, path: Path, lines: Mapping[Loc, int]) -> Iterator[Problem]:
    """What only one can have: a port to listen on, a serial port."""
    holders: dict[str, str] = {}
    wanted: list[tuple[str, Loc, str]] = [("api.listen", ("api", "listen"), _port(site.api.listen))]
    if not site.broker.url and any(connection.link.startswith("mqtt:") for connection in site.connection):
        wanted.append(("broker.listen", ("broker", "listen"), _port(site.broker.listen)))
    for index, connection in enumerate(site.connection):
        link = urlsplit(connection.link)
        held = ""
        if link.scheme in LISTENING:
            held = _port(link.netloc)
            if held and link.scheme == "udp-listen":
                held = f"UDP {held}"
        elif link.scheme in {"serial", "modbus+rtu"}:
            held = link.path
        wanted.append((f"connection.{connection.name}.link", ("connection", index, "link"), held))
    for key, at, held in wanted:
        if held and held in holders:
            yield Problem(
                str(path), line_of(lines, at), key, f"{held} is taken by {holders[held]}", "one of its own", "已被占用"
            )
        holders.setdefault(held, key)


def _port(address: str) -> str:
    """One port is one holder's, whatever the host: 0.0.0.0 has them all. Port 0 is any free one."""
    port = address.rpartition(":")[2]
    return f"port {port}" if port != "0" else ""


@contextmanager
def _noting(problems: list[Problem]) -> Iterator[None]:
    """Collect the mistakes of one part and go on to the next, so that a person sees all of them at once."""
    try:
        yield
    except ConfigError as error:
        problems.extend(error.problems)


@contextmanager
def _at(path: Path, line: int | None, key: str) -> Iterator[None]:
    """Whoever reads a value does not know where it stands; mistakes of other files stay theirs."""
    try:
        yield
    except ConfigError as error:
        here = [
            replace(problem, file=str(path), line=line, key=key) if problem.file == "site file" else problem
            for problem in error.problems
        ]
        raise ConfigError(here) from None


def _connection(
    section: ConnectionSection,
    own_profiles: Path | None,
    path: Path,
    lines: Mapping[Loc, int],
    at: Loc,
    *,
    base: Path,
    credential: KeyFile,
) -> PlannedConnection:
    file = str(path)
    driver, of_profile = load_driver(section.driver, own_profiles, file=file, line=line_of(lines, (*at, "driver")))
    with _at(path, line_of(lines, (*at, "link")), f"connection.{section.name}.link"):
        check_link(driver, section.link)
    content = section.settings if of_profile is None else _of_profile(section, of_profile, file, lines, at)
    settings = load_settings(driver, content, file=file, lines=lines, at=(*at, "settings"))
    profiles = load_profiles(driver, own_profiles)
    context = Context(
        settings=settings, profiles=profiles, connection=section.name, secrets=load_secrets(driver, settings, base),
        credential=credential,
    )  # fmt: skip
    _check_together(driver, context, file, line_of(lines, (*at, "settings")))
    return PlannedConnection(section, driver, context)


def _of_profile(
    section: ConnectionSection, profile: str, file: str, lines: Mapping[Loc, int], at: Loc
) -> Mapping[str, Any]:
    """The settings of a connection whose driver is named by a profile. Raises ConfigError when they name another."""
    given = section.settings.get("profile", profile)
    if given != profile:
        key, expected = f"connection.{section.name}.settings.profile", f'"{profile}" or nothing: the driver names it'
        line = line_of(lines, (*at, "settings", "profile"))
        raise ConfigError([Problem(file, line, key, f'found "{given}"', expected, "与驱动名不符")])
    return {**section.settings, "profile": profile}


def check_link(driver: ModuleType, link: str) -> None:
    """That the driver can use it and that it is written right. Raises ConfigError."""
    scheme = urlsplit(link).scheme
    if scheme not in LINKS_OF[driver.LINK]:
        expected = f"a link for a {driver.LINK} driver: " + ", ".join(sorted(LINKS_OF[driver.LINK]))
        raise ConfigError([Problem("site file", None, "link", f"{scheme}://", expected, "连接方式与驱动不符")])
    try:
        READERS[scheme](link)
    except ValueError as error:
        raise ConfigError([Problem("site file", None, "link", f"found {link!r}", str(error), "取值不符")]) from None


def _check_together(driver: ModuleType, context: Context, file: str, line: int | None) -> None:
    """What only settings and profiles together can show: a driver may offer `mistakes(context) -> [(found, expected)]`."""
    mistakes: Sequence[tuple[str, str]] = driver.mistakes(context) if hasattr(driver, "mistakes") else ()
    if mistakes:
        key = f"connection.{context.connection}.settings"
        raise ConfigError([Problem(file, line, key, found, expected, "取值不符") for found, expected in mistakes])


def _destination(
    section: DestinationSection, path: Path, base: Path, lines: Mapping[Loc, int], at: Loc
) -> PlannedDestination:
    file = str(path)
    forwarder = load_module("gateway.forwarders", section.forwarder, file=file, line=line_of(lines, (*at, "forwarder")))
    settings = load_settings(forwarder, section.settings, file=file, lines=lines, at=(*at, "settings"))
    return PlannedDestination(section, forwarder, settings, forwarder.check(settings, base))
