"""What a family of MQTT bridges says, as data: topics, members of its JSON, what they mean. Checked before the start."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from gateway.driver import FACTS, Act, Context, Kind, Qualifier
from gateway.driver import Settings as Section

ONE_LEVEL, REST = r"[^/]+", r".+"
VALUES_MAX = 32

Plain = StrictBool | StrictInt | StrictFloat | StrictStr
"""A value as JSON writes it: true is not 1."""
Member = Annotated[str, Field(min_length=1, max_length=64)]
"""A member of the payload; `a.b` is member b of the object a."""
DeviceId = Annotated[str, Field(min_length=1, max_length=128)]

PublishedId = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^+#\x00]+$")]
"""A device id that is to stand in a topic we publish to (MQTT 3.1.1, 4.7.1)."""
ROLES_MAX = 1000


class Settings(Section):
    """Which family hangs on this connection, and under which topic."""

    profile: str = "zigbee2mqtt"
    topic: Annotated[str, Field(pattern=r"^[^#]+$")] | None = None
    """The base topic, where it is not the profile's."""
    bridge: DeviceId | None = None
    """The device id of the bridge itself; left out: the base topic."""
    roles: Annotated[dict[PublishedId, str], Field(max_length=ROLES_MAX)] = Field(default_factory=dict)
    """What can be told to do something, by device id: "lock" or "siren", as far as the profile has the role."""
    utc_offset: Annotated[str, Field(pattern=r"^[+-](0\d|1[0-4]):[0-5]\d$")] | None = None
    """Of a bridge that gives its local time without saying which ("+08:00"). Left out: its time is not believed."""


class Message(Section):
    """What is published under one topic: a row of the profile. The first that fits counts."""

    topic: str
    """`{topic}` is the base topic, `{device}` and `{member}` are one level, `{device...}` is one or more."""
    when: dict[Member, Plain] = Field(default_factory=dict)
    """Members that the payload must have for the row to fit."""
    says: Literal["state", "position", "availability", "bridge", "alive", "nothing"] = "state"
    """`bridge` is the availability of the bridge, `alive` a word that only a living bridge says."""
    online: tuple[str, ...] = ()
    offline: tuple[str, ...] = ()
    word: Member | None = None
    """Where these words stand when the payload is an object; a bare word is read as it is."""
    device: tuple[Member, ...] = ()
    """Members that make the device's id, joined by "-", where the topic does not name it."""
    code: Member | None = None
    """A learning code of hex digits: the first `code_digits` are the sensor, the rest is the member "key"."""
    code_digits: int = 5
    prefix: str = ""
    """Before the device's id, so that two families cannot mean one device."""
    repeats_state: dict[Member, Plain] = Field(default_factory=dict)
    """With these members a message says only again how things are: it can end a condition, and begins none."""
    left_out: dict[Member, Plain] = Field(default_factory=dict)
    """What a member that is missing means where the bridge leaves out zero and false (Protocol Buffers)."""
    is_back: bool = False
    """Whoever says this was given up by a last will and is there again, without another word of it."""
    latitude: Member = "lat"
    longitude: Member = "lon"
    speed_kmh: Member | None = None

    @model_validator(mode="after")
    def _names_its_device(self) -> Message:
        if self.says in ("availability", "bridge") and not self.offline:
            raise ValueError("`offline`, the words for it")
        if self.says in ("state", "position", "availability") and not (
            "{device" in self.topic or self.device or self.code
        ):
            raise ValueError("`{device}` in the topic, or `device`, or `code`")
        return self

    def pattern(self, base: str) -> re.Pattern[str]:
        """The topics that fit, with what they name."""
        return _pattern(self.topic, base)


@lru_cache(maxsize=1024)
def _pattern(topic: str, base: str) -> re.Pattern[str]:
    parts = re.split(r"(\{[a-z.]+\}|\+|#)", topic.replace("{topic}", base))
    meant = {
        "{device}": f"(?P<device>{ONE_LEVEL})",
        "{device...}": f"(?P<device>{REST})",
        "{member}": f"(?P<member>{ONE_LEVEL})",
        "+": ONE_LEVEL,
        "#": REST,
    }
    return re.compile("".join(meant.get(part, re.escape(part)) for part in parts), re.DOTALL)


class Condition(Section):
    """A member that shows whether something is the case. A value that is neither is not understood, never "all quiet"."""

    kind: Kind
    zone: Annotated[int, Field(ge=0, le=9999)] | None = None
    active: Plain
    clear: Plain | None = None
    """Left out: false for true and true for false; for other values nothing, as the end is never said."""

    @property
    def cleared(self) -> Plain | None:
        """The value that says that it is over; None where none does, so that each report is news."""
        return not self.active if self.clear is None and isinstance(self.active, bool) else self.clear

    @model_validator(mode="after")
    def _begins_and_ends(self) -> Condition:
        if FACTS[self.kind].momentary:
            raise ValueError("a kind that begins and ends; for a press use [word]")
        return self


class Meaning(Section):
    """What one word says."""

    kind: Kind
    qualifier: Qualifier = Qualifier.NEW
    zone: Annotated[int, Field(ge=0, le=9999)] | None = None


class Words(Section):
    """A member whose words mean different things. One that is not listed is an unknown alarm under its own name."""

    member: Member
    means: dict[str, Meaning]
    ignore: tuple[str, ...] = ()
    when: dict[Member, Plain] = Field(default_factory=dict)
    """Members that the payload must have for these words to count."""
    each: bool = False
    """Every word of a beginning is news, also of a condition that is on already: its end is never said, or may be lost."""


class Low(Section):
    """A measurement that is too low below one value, and well again from a higher one on."""

    kind: Kind = Kind.RF_BATT_LOW
    below: FiniteFloat
    well_from: FiniteFloat
    unless: tuple[Member, ...] = ()
    """Members that say, by being true, that the value means nothing."""

    @model_validator(mode="after")
    def _apart(self) -> Low:
        if self.below >= self.well_from:
            raise ValueError("`well_from` above `below`: one that trembles would come and go for ever")
        return self


class Saying(Section):
    """What is published to have something done, and what the device then says of itself: the only evidence."""

    payload: str
    """`{seconds}` is how long."""
    shows: Annotated[dict[Member, Plain], Field(min_length=1)]


class Doing(Saying):
    """How a device is told to do one thing."""

    topic: str
    """`{topic}` is the base topic, `{device}` the device's id."""
    silence: Saying | None = None
    """For an act of 0 seconds, which ends what sounds."""


Seconds = Annotated[float, Field(gt=0)]


class Profile(Section):
    """One family of bridges."""

    topic: str = ""
    """The usual base topic; empty: the connection's settings must name it."""
    subscribe: Annotated[tuple[str, ...], Field(min_length=1)]
    heard_within_s: Seconds | None = None
    """How often a device must be heard; None: nobody can tell a quiet one from a dead one."""
    bridge: bool = False
    """Everything comes through one bridge, whose loss says nothing about the devices behind it."""
    bridge_heard_within_s: Seconds | None = None
    verified: str
    """What it was tried against, for the page and for people."""
    assurance: Literal["low"] | None = None
    """"low": anybody can copy the code off the air and send it again."""
    repeated_within_s: Annotated[float, Field(ge=0, le=10)] = 0.0
    """A sender repeats itself on the air for so long: the same within this time is one event."""
    id: Member | None = None
    """The member that names this very message, and no other."""
    time: Member | None = None
    values: Annotated[dict[Member, str], Field(max_length=VALUES_MAX)] = Field(default_factory=dict)
    """Measurements by member, with the names under which they are kept."""
    message: Annotated[tuple[Message, ...], Field(min_length=1)]
    condition: dict[Member, Condition] = Field(default_factory=dict)
    words: tuple[Words, ...] = ()
    low: dict[Member, Low] = Field(default_factory=dict)
    role: dict[str, dict[Act, Doing]] = Field(default_factory=dict)
    """What a lock, a siren can be told to do."""

    @model_validator(mode="after")
    def _locks_again(self) -> Profile:
        if any(Act.OPEN in acts and Act.LOCK not in acts for acts in self.role.values()):
            raise ValueError("`lock` beside `open`: what is opened for a moment is locked again")
        return self


HEARD_WITHIN_S: float | None = None
"""Each family has its own figure, in its profile."""


def settings_of(context: Context) -> Settings:
    """The settings, also where none are given."""
    settings: Settings = context.settings or Settings()
    return settings


def profile_of(context: Context) -> Profile:
    """The family's profile, which `mistakes` has looked for before the start."""
    profile: Profile = context.profiles[settings_of(context).profile]
    return profile


def base_of(context: Context) -> str:
    """The base topic."""
    return settings_of(context).topic or profile_of(context).topic


def bridge_of(context: Context) -> str | None:
    """The device id of the bridge; None where the family has none."""
    settings = settings_of(context)
    if not profile_of(context).bridge:
        return None
    return settings.bridge or (settings.profile if "+" in base_of(context) else base_of(context))


def mistakes(context: Context) -> Sequence[tuple[str, str]]:
    """What is wrong with settings and profiles together, as found and expected."""
    settings = settings_of(context)
    if settings.profile not in context.profiles:
        near = difflib.get_close_matches(settings.profile, context.profiles, n=1, cutoff=0.5)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        return [(f'profile "{settings.profile}" is not known', f"one of {', '.join(sorted(context.profiles))}{hint}")]
    if not base_of(context) and any("{topic}" in filter_ for filter_ in profile_of(context).subscribe):
        return [("no topic", f'`topic`: the name of this one, as profile "{settings.profile}" knows none')]
    known = profile_of(context).role
    return [
        (
            f'role "{role}" of {device!r} is not known',
            f"one of {', '.join(sorted(known)) or 'none: it cannot be told anything'}",
        )
        for device, role in settings.roles.items()
        if role not in known
    ]


def heard_within_s(device: str, context: Context) -> float | None:
    """Of the bridge, or of a device behind it."""
    profile = profile_of(context)
    return profile.bridge_heard_within_s if device == bridge_of(context) else profile.heard_within_s


def behind(device: str, context: Context) -> str | None:
    """The bridge, for whatever is not the bridge."""
    bridge = bridge_of(context)
    return None if device == bridge else bridge


def subscriptions(context: Context) -> Sequence[str]:
    """The profile's topic filters under this base topic."""
    return [filter_.replace("{topic}", base_of(context)) for filter_ in profile_of(context).subscribe]
