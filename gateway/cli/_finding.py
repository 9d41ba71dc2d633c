"""What commands find that look at a box, and how it is told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.errors import ConfigError


class Finding(NamedTuple):
    """One look: what, how it is, and what to do about it in both languages."""

    what: str
    state: Literal["ok", "warning", "failed"]
    found: str
    hint: str = ""


def mistakes(error: ConfigError) -> Sequence[Finding]:
    """Of the site file; most name a remedy of their own."""
    mend = "mend it, then check again 请修改后重查"
    return [Finding("site file", "failed", str(each), "" if each.hint else mend) for each in error.problems]


def told(findings: Iterable[Finding], *, as_json: bool) -> int:
    """Print them; the exit code."""
    findings = list(findings)
    if as_json:
        print(json.dumps([finding._asdict() for finding in findings], ensure_ascii=False))
    else:
        for finding in findings:
            print(f"{finding.state:8} {finding.what:24} {finding.found}")
            if finding.hint:
                print(f"{'':8} {'':24} -> {finding.hint}")
    return 1 if any(finding.state == "failed" for finding in findings) else 0
