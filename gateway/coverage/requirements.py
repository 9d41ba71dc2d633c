"""What is required where: profiles of sites, as data with a version and a source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


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
    inspect_days: int = 365
    """How long an inspection of a physical measure counts."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What sites of a kind must have, from some day on."""

    site_kind: str
    version: str
    source: str
    """The standard or order it follows, as people cite it."""
    requirements: tuple[Requirement, ...]

    @property
    def value(self) -> Mapping[str, Any]:
        """As a fact holds it."""
        return {
            "version": self.version, "source": self.source,
            "requirements": [asdict(requirement) for requirement in self.requirements],
        }  # fmt: skip


def profile_of(site_kind: str, value: Mapping[str, Any]) -> Profile:
    """The profile that a fact holds."""
    return Profile(site_kind, value["version"], value["source"], tuple(map(_requirement, value["requirements"])))


def _requirement(line: Mapping[str, Any]) -> Requirement:
    closed: Mapping[str, type[StrEnum]] = {"family": Family, "duty": Duty, "networking": Networking}
    read: dict[str, Any] = {name: closed[name](word) if name in closed else word for name, word in line.items()}
    return Requirement(**read)
