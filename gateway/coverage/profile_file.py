"""Profiles as files: what a standard or a local order asks of sites of one kind, for people to read, change and load.

The shipped ones (gateway/coverage/profiles) are samples: quantities are to be taken from the official texts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from gateway.config import check_model, line_of, read_toml
from gateway.coverage.requirements import Duty, Family, Networking, Profile, Requirement
from gateway.errors import ConfigError, Problem

SHIPPED = Path(__file__).parent / "profiles"
REQUIREMENTS_MAX = 200
"""The longest table of a national standard has some sixty lines."""
QUANTITY_MAX = 100
INSPECT_DAYS_MAX = 3 * 366

Word = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=256, strip_whitespace=True)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RequirementTable(_Strict):
    """One [[requirement]]."""

    point_kind: Word
    measure: Word
    family: Family = Family.TECHNICAL
    duty: Duty = Duty.MANDATORY
    quantity: int = Field(1, ge=1, le=QUANTITY_MAX)
    networking: Networking = Networking.NO
    every_site: bool = False
    shared: bool = False
    inspect_days: int = Field(365, ge=1, le=INSPECT_DAYS_MAX)


class ProfileFile(_Strict):
    """The whole file."""

    site_kind: Word
    version: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")]
    source: Text
    requirement: list[RequirementTable] = Field(min_length=1, max_length=REQUIREMENTS_MAX)


def profile_from(path: Path) -> Profile:
    """Read and check. Raises ConfigError with file, line and key of every mistake."""
    content, lines = read_toml(path)
    found, problems = check_model(ProfileFile, content, file=str(path), lines=lines)
    if found is None:
        raise ConfigError(problems)
    seen: set[tuple[str, str]] = set()
    for index, table in enumerate(found.requirement):
        at = ("requirement", index)
        if (table.point_kind, table.measure) in seen:
            twice = f"{table.measure} of {table.point_kind} is there twice"
            problems.append(
                Problem(
                    str(path), line_of(lines, at), "requirement", twice, "each once, with its quantity", "重复的要求"
                )
            )
        if table.family is Family.PHYSICAL and table.networking is not Networking.NO:
            key = f"requirement.{index}.networking"
            found_word = f"{table.networking} for a physical measure"
            problems.append(
                Problem(
                    str(path),
                    line_of(lines, (*at, "networking")),
                    key,
                    found_word,
                    "no: it sends nothing",
                    "物防不联网",
                )
            )
        seen.add((table.point_kind, table.measure))
    if problems:
        raise ConfigError(problems)
    lines_of = tuple(Requirement(**dict(table)) for table in found.requirement)
    return Profile(found.site_kind, found.version, found.source, lines_of)


def shipped() -> list[Profile]:
    """The samples, by kind of site."""
    return [profile_from(path) for path in sorted(SHIPPED.glob("*.toml"))]
