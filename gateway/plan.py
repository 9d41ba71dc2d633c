"""The site file together with the drivers, profiles, forwarders and secrets it names: all checked before anything starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from gateway.config import (
    ConnectionSection,
    DestinationSection,
    GatewaySection,
    Loc,
    Secret,
    SiteFile,
    line_of,
    load_site_file,
    read_secret,
    read_toml,
    sound,
)
from gateway.driver import Context
from gateway.errors import ConfigError, Problem
from gateway.loader import load_module, load_profiles, load_settings

LINKS_OF = {"stream": {"tcp", "tcp-listen", "serial"}, "topics": {"mqtt"}, "bus": {"modbus+tcp", "modbus+rtu"}}
"""Which link schemes fit which shape of driver."""


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


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything the daemon needs to know before it opens a single file or socket."""

    path: Path
    site: SiteFile
    data_dir: Path
    token: Secret | None
    connections: tuple[PlannedConnection, ...]
    destinations: tuple[PlannedDestination, ...]


def prepare(path: Path) -> Plan:
    """Read the site file and everything it names. Raises ConfigError with every mistake found, in the order of the file."""
    base = path.resolve().parent
    problems: list[Problem] = []
    site: SiteFile | None = None
    with _noting(problems):
        site = load_site_file(path)
    try:
        content, lines = read_toml(path)
    except ConfigError:
        raise ConfigError(problems) from None  # it is not even TOML, or not there: that is noted already

    # Also when the file as a whole cannot be used: its sound tables may name a driver that does not exist.
    gateway = site.gateway if site else sound(GatewaySection, [content.get("gateway", {})]).get(0, GatewaySection())
    own_profiles = base / gateway.profiles_dir if gateway.profiles_dir else None
    connections: list[PlannedConnection] = []
    for index, connection in sound(ConnectionSection, content.get("connection")).items():
        with _noting(problems):
            connections.append(_connection(connection, own_profiles, path, lines, ("connection", index)))
    destinations: list[PlannedDestination] = []
    for index, destination in sound(DestinationSection, content.get("destination")).items():
        with _noting(problems):
            destinations.append(_destination(destination, path, lines, ("destination", index)))
    token: Secret | None = None
    if site and site.api.token_file:
        with _noting(problems):
            token = read_secret(base / site.api.token_file)
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: (problem.file != str(path), problem.line or 0)))
    assert site is not None
    return Plan(path, site, site.data_dir(base), token, tuple(connections), tuple(destinations))


@contextmanager
def _noting(problems: list[Problem]) -> Iterator[None]:
    """Collect the mistakes of one part and go on to the next, so that a person sees all of them at once."""
    try:
        yield
    except ConfigError as error:
        problems.extend(error.problems)


def _connection(
    section: ConnectionSection, own_profiles: Path | None, path: Path, lines: Mapping[Loc, int], at: Loc
) -> PlannedConnection:
    file = str(path)
    driver = load_module("drivers", section.driver, file=file, line=line_of(lines, (*at, "driver")))
    scheme = urlsplit(section.link).scheme
    if scheme not in LINKS_OF[driver.LINK]:
        expected = f"a link for a {driver.LINK} driver: " + ", ".join(sorted(LINKS_OF[driver.LINK]))
        problem = Problem(
            file, line_of(lines, (*at, "link")), f"connection.{section.name}.link", f"{scheme}://", expected,
            "连接方式与驱动不符",
        )  # fmt: skip
        raise ConfigError([problem])
    settings = load_settings(driver, section.settings, file=file, lines=lines, at=(*at, "settings"))
    profiles = load_profiles(driver, own_profiles)
    context = Context(settings=settings, profiles=profiles, connection=section.name)
    _check_together(driver, context, file, line_of(lines, (*at, "settings")))
    return PlannedConnection(section, driver, context)


def _check_together(driver: ModuleType, context: Context, file: str, line: int | None) -> None:
    """What only settings and profiles together can show: a driver may offer `mistakes(context) -> [(found, expected)]`."""
    mistakes: Sequence[tuple[str, str]] = driver.mistakes(context) if hasattr(driver, "mistakes") else ()
    if mistakes:
        key = f"connection.{context.connection}.settings"
        raise ConfigError([Problem(file, line, key, found, expected, "取值不符") for found, expected in mistakes])


def _destination(section: DestinationSection, path: Path, lines: Mapping[Loc, int], at: Loc) -> PlannedDestination:
    file = str(path)
    forwarder = load_module("gateway.forwarders", section.forwarder, file=file, line=line_of(lines, (*at, "forwarder")))
    settings = load_settings(forwarder, section.settings, file=file, lines=lines, at=(*at, "settings"))
    forwarder.check(settings, path.resolve().parent)
    return PlannedDestination(section, forwarder, settings)
