"""Who may do what: roles, what each grants, and the actor in whose name something is asked. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a person or a program is to the box; each has exactly one."""

    DUTY_OFFICER = "duty_officer"
    """值班员"""
    MAINTENANCE = "maintenance"
    """运维人员"""
    TEST_ENGINEER = "test_engineer"
    """测试工程师: everything on the sites that are there for tests, and so never without named sites."""
    AUDITOR = "auditor"
    """审计员"""
    ADMINISTRATOR = "administrator"
    """管理员"""


class Permission(StrEnum):
    """What can be asked for. A role that does not grant it is refused."""

    WATCH = "watch"
    """Events and the live stream, devices, sites, points."""
    DELIVERIES = "deliveries"
    """What goes to whom, and frames that were none: across all sites."""
    SEND_AGAIN = "send again"
    """Let a receiver have events once more."""
    OPERATE = "operate"
    """Commands that change what protects a place: open, lock, unlock, siren, arm, disarm; a vehicle's duty."""
    SERVICE = "service"
    """Commands of upkeep: bypass, self-test, locate."""
    CAPTURE = "capture"
    """Record what passes over a line."""
    LOCATE = "locate"
    """See where an enrolled vehicle is, once it has raised an alarm."""
    CONFIGURE = "configure"
    AUDIT = "audit"
    """Read the record of who did what."""
    MEASURE = "measure"
    """Metrics that name devices."""


_EVERYBODY = frozenset({Permission.WATCH})

GRANTS: Mapping[Role, frozenset[Permission]] = {
    Role.DUTY_OFFICER: _EVERYBODY | {Permission.DELIVERIES, Permission.OPERATE, Permission.SERVICE, Permission.LOCATE},
    Role.MAINTENANCE: _EVERYBODY
    | {Permission.DELIVERIES, Permission.SEND_AGAIN, Permission.SERVICE, Permission.CAPTURE, Permission.MEASURE},
    Role.TEST_ENGINEER: _EVERYBODY | {Permission.OPERATE, Permission.SERVICE, Permission.CAPTURE},
    Role.AUDITOR: _EVERYBODY | {Permission.DELIVERIES, Permission.AUDIT},
    # Who makes accounts can make one of every role: to withhold anything here would protect nothing, and hide who did it.
    Role.ADMINISTRATOR: frozenset(Permission),
}


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks. `sites` None: all of them, and the box itself."""

    id: str
    """`account:li`, `token:grafana`, `box` (the site file's token), `os:root` (the command line), `gateway`."""
    role: Role
    sites: frozenset[str] | None = None

    @property
    def name(self) -> str:
        """The id without what kind of actor it is."""
        return self.id.rpartition(":")[2]

    def may(self, permission: Permission) -> bool:
        """Whether the role grants it; which sites it is granted for, `sees` says."""
        return permission in GRANTS[self.role]

    def sees(self, site: str | None) -> bool:
        """Whether a site, or (None) what belongs to no site, is within reach."""
        return self.sites is None or site in self.sites


GATEWAY = Actor("gateway", Role.ADMINISTRATOR)
"""The program itself: what it does by its clock or on a signal."""
