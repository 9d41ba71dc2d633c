"""The demo's screen: devices, lanes, backlog and the 110 line, twice a second."""

from __future__ import annotations

import json
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from gateway.cli.demo_audit import Audit
from gateway.coverage.counts import NOTHING_INSTALLED, stated

HOME_AND_CLEAR = "\x1b[H\x1b[J"
BOLD, RED, GREEN, YELLOW, PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"
ASK_WITHIN_S = 0.4
NODES = ("area:qu", "area:demo")
"""The sample district, and the community whose devices are played."""


def draw(url: str, token: str, folder: Path, audit: Audit, *, kills: int, line_cut: bool) -> None:
    """Redraw. A gateway that does not answer is part of the picture."""
    lines = [f"{BOLD}Fangkong 防控 demo{PLAIN}   {url}#token={token}", f"files: {folder}", ""]
    try:
        destinations = _ask(url, token, "api/v1/destinations")
        devices = _ask(url, token, "api/v1/devices?limit=1000")
        events = _ask(url, token, "api/v1/events?newest_first=true&limit=12")
        stored = _stored(url)
        counted = [f"coverage  {line}" for line in in_words(coverage(url, token))]
    except (OSError, urllib.error.URLError, ValueError):
        lines.append(f"{RED}the gateway does not answer (killed, or starting){PLAIN}")
    else:
        lines += [*counted, *_state(destinations, devices, events, stored)]
    colour = RED if audit.duplicates else GREEN
    lines += [
        "",
        f"alarms raised {audit.alarms}, accepted by 110 {audit.delivered}, on the way {audit.lost}, "
        f"{colour}doubled {audit.duplicates}{PLAIN}, kills {kills}"
        + (f"   {YELLOW}110 line cut{PLAIN}" if line_cut else ""),
        "",
        f"{BOLD}k{PLAIN} kill -9 the gateway   {BOLD}o{PLAIN} cut or restore the 110 line   {BOLD}q{PLAIN} end",
    ]
    sys.stdout.write(HOME_AND_CLEAR + "\n".join(lines) + "\n")
    sys.stdout.flush()


def coverage(url: str, token: str) -> list[Any]:
    """What the gateway counts of the sample and of the community. Raises OSError, ValueError."""
    return [_ask(url, token, f"api/v1/coverage?node={node}") for node in NODES]


def in_words(answers: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line for each node, from what the API says of it."""
    for answer in answers:
        counts = answer["counts"]
        rates = {
            "installed": stated(counts["installed"], counts["required"], "en"),
            "working": stated(counts["working"], counts["installed"], "en", empty=NOTHING_INSTALLED),
            "networked": stated(counts["networked"], counts["must_network"], "en"),
        }
        beside = {name: counts[name] for name in ("waived", "overdue", "unsupervised")}
        said = ", ".join(f"{name} {what}" for name, what in {"required": counts["required"], **rates, **beside}.items())
        yield f"{answer['name']}: {said}"


def _stored(url: str) -> list[tuple[str, str]]:
    """Events on disk by lane, as Prometheus would scrape them."""
    with urllib.request.urlopen(url + "metrics", timeout=ASK_WITHIN_S) as answer:  # noqa: S310  # our own loopback URL
        return re.findall(r'^fangkong_stored_events\{lane="(\w+)"\} (\d+)', answer.read().decode(), re.MULTILINE)


def _state(destinations: Any, devices: Any, events: Any, stored: list[tuple[str, str]]) -> list[str]:
    states: dict[str, int] = {}
    for device in devices["items"]:
        states[device["state"]] = states.get(device["state"], 0) + 1
    lines = ["devices   " + "   ".join(f"{state} {count}" for state, count in sorted(states.items()))]
    lines.append("events    " + "   ".join(f"{lane} {count}" for lane, count in stored))
    for destination in destinations["items"]:
        up = f"{GREEN}up{PLAIN}" if destination["up"] else f"{RED}down{PLAIN}"
        backlog = "   ".join(f"{lane} {count}" for lane, count in destination["backlog"].items())
        lines.append(f"{destination['name']}   {up}   backlog: {backlog}")
    lines.append("")
    for event in events["items"]:
        zone = "" if event["zone"] is None else f" zone {event['zone']}"
        at = datetime.fromisoformat(event["received_at"]).astimezone()  # the clock of who looks at it
        lines.append(
            f"  {at:%H:%M:%S}  {event['lane']:<7} {event['device']:<14} {event['kind']} {event['qualifier']}{zone}"
        )
    return lines


def _ask(url: str, token: str, path: str) -> Any:
    request = urllib.request.Request(url + path, headers={"Authorization": f"Bearer {token}"})  # noqa: S310  # our own loopback URL
    with urllib.request.urlopen(request, timeout=ASK_WITHIN_S) as answer:  # noqa: S310  # as above
        return json.load(answer)
