"""One root, few leaves: each class exists because some caller treats it differently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


class GatewayError(Exception):
    """Root of everything this program raises on purpose."""


Reason = Literal["malformed", "checksum", "too_long", "unknown_device", "spoofed"]
"""Why a frame was refused: a closed list, because it becomes a metric label."""


class FrameError(GatewayError):
    """Bytes that are not a valid frame. The driver drops and counts them, keeps the raw bytes and goes on."""

    def __init__(self, message: str, reason: Reason = "malformed") -> None:
        super().__init__(message)
        self.reason: Reason = reason


class LinkClosed(GatewayError):
    """The line is gone. The supervisor opens it again, with jittered back-off."""


class NoAnswer(GatewayError):
    """One unit on a shared bus stayed silent. Its neighbours are still polled; the link stays open."""


class BusRefused(GatewayError):
    """A unit answered with a Modbus exception code (Modbus Application Protocol V1.1b3, section 7)."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the unit refused with Modbus exception code {code}")
        self.code = code


class Refused(GatewayError):
    """The far side says no (credentials, account, version). Trying the same again blindly cannot help."""


class StoreError(GatewayError):
    """The event could not be made durable. Nothing is acknowledged until the store works again."""


class Denied(GatewayError):
    """Who asks is not known, or may not. Never says which part of a log-in was wrong."""


class WeakPassword(GatewayError):
    """Not good enough to be kept; says why."""


class TooOften(GatewayError):
    """Too many tries. The next one is free after `wait_s`."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"too many tries; the next one in {wait_s:.0f} s")
        self.wait_s = wait_s


class Busy(GatewayError):
    """Too many wait for the same already. Asking again later may help."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in one input file, in the words a person needs to mend it."""

    file: str
    line: int | None
    key: str
    found: str
    expected: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        text = f"{where}: {self.key}: {self.found}; expected {self.expected}"
        return f"{text} ({self.hint})" if self.hint else text


class ConfigError(GatewayError):
    """The site file, a profile or an import cannot be used. Carries every mistake found, not only the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The errors inside a group of groups."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found += leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
