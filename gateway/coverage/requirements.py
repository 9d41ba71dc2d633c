"""What is required where: profiles of sites, as data with a version and a source."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Family(StrEnum):
    """Who proves a measure: a technical one its telemetry, a physical one an inspection."""

    TECHNICAL = "technical"
    PHYSICAL = "physical"


class Duty(StrEnum):
    """Mandatory and advised requirements are never counted together."""

    MANDATORY = "mandatory"
    ADVISED = "advised"


class Networking(StrEnum):
    """Whether its alarms have to reach 110."""

    MUST = "must"
    SHOULD = "should"
    NO = "no"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One line of a profile: what points of a kind must have."""

    point_kind: str
    measure: str
    """"intrusion", "panic", "access_control", "gps", "security_door", "bars", "fence", "lighting" ..."""
    family: Family = Family.TECHNICAL
    duty: Duty = Duty.MANDATORY
    quantity: int = 1
    networking: Networking = Networking.NO
    every_site: bool = False
    """A site of this kind without any such point has a gap of its own: nobody has planned it."""
    shared: bool = False
    """Its watchers may count for the point's other requirements as well."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What sites of a kind must have, from some day on."""

    site_kind: str
    version: str
    source: str
    """The standard or order it follows, as people cite it."""
    requirements: tuple[Requirement, ...]
