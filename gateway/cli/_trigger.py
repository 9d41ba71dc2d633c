"""`fangkong device claim --by-trigger`: listen until a device nobody has claimed is triggered, and bind it to its point."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gateway.cli._daemon import asked
from gateway.cli._site_file import FAILED, OK, person, show

if TYPE_CHECKING:
    import argparse

LOOK_S = 0.5
SETTLE_S = 2.0
"""So long after the first word others are waited for: a neighbour may have been touched as well."""


async def claim(args: argparse.Namespace) -> int:
    """The exit code."""
    from urllib.parse import quote

    from gateway.clock import RealClock

    begun = asked(args, "triggered")
    if begun is None:
        return FAILED
    if not args.json:
        print(f"trigger the device of {args.point} now, within {args.within} s 请现在触发该设备")
    clock = RealClock()
    until = clock.monotonic() + args.within
    heard = begun
    while heard and not heard["items"] and clock.monotonic() < until:
        await clock.sleep(LOOK_S)
        heard = asked(args, f"triggered?since={quote(begun['now'])}")
    await clock.sleep(SETTLE_S)
    wish = {
        "since": begun["now"],
        "device": args.id,
        "whole": args.zone is None,
        "kind": args.kind,
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
