"""`fangkong device claim --by-trigger`: listen until a device nobody has claimed is triggered, and bind it to its point."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gateway.cli._daemon import asked
from gateway.cli._site_file import FAILED, OK, open_registry, person, show

if TYPE_CHECKING:
    import argparse

OF_THE_PLAN = ("site", "number", "point_name", "heard_within_s")
LOOK_S = 0.5
SETTLE_S = 2.0
"""So long after the first word others are waited for: a neighbour may have been touched as well."""


async def claim(args: argparse.Namespace) -> int:
    """The exit code."""
    from urllib.parse import quote

    from gateway.clock import RealClock
    from gateway.errors import ConfigError, Problem

    if useless := [f"--{name.replace('_', '-')}" for name in OF_THE_PLAN if getattr(args, name) not in (None, "")]:
        expected = f"what stands in the plan of {args.point} already; change that with fangkong point set"
        raise ConfigError([Problem("command line", None, ", ".join(useless), "not needed", expected, "点位已有规划")])
    await _planned(args)
    begun = asked(args, "triggered")
    if begun is None:
        return FAILED
    if not args.json:
        print(f"trigger the device of {args.point} now, within {args.within} s 请现在触发该设备", flush=True)
    clock = RealClock()
    until = clock.monotonic() + args.within
    heard = begun
    while heard and not heard["items"] and clock.monotonic() < until:
        await clock.sleep(LOOK_S)
        heard = asked(args, f"triggered?since={quote(begun['now'])}&point={quote(args.point)}")
    await clock.sleep(SETTLE_S)
    wish = {
        "since": begun["now"],
        "device": args.id,
        "zone": args.zone,
        "whole": args.zone is None,
        **{name: getattr(args, name) or "" for name in ("name", "kind", "vendor", "model", "parent", "point_kind")},
        "who": person(),
    }
    found = heard and asked(args, f"points/{quote(args.point, safe='')}/claim", wish)
    if not found:
        return FAILED
    if args.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        show(args, [{"point": args.point, **found}], empty="")
    return OK


async def _planned(args: argparse.Namespace) -> None:
    """Before an installer waits for nothing. Raises ConfigError for a point that is not there or has its device."""
    from gateway.errors import ConfigError, Problem

    registry = await open_registry(args)
    point = registry.snapshot.points.get(args.point)
    await registry.close()
    if point is None or point.device is not None:
        found = f"{args.point!r} is {f'watched by {point.device} already' if point else 'not in the ledger'}"[:160]
        raise ConfigError(
            [
                Problem(
                    "command line", None, "--point", found, "a planned point without a device", "点位不存在或已有设备"
                )
            ]
        )
