"""`fangkong self-test list|due`: what monthly self-tests found, and which live tests by hand are due."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from gateway.cli._site_file import OK, add_common, data_dir, days, open_registry, show

if TYPE_CHECKING:
    from gateway.cli import Commands


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("self-test")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    listed = verbs.add_parser("list", help="the last result of each point")
    listed.add_argument("--site")
    add_common(listed, _list)

    due = verbs.add_parser("due", help="panic buttons and the like that a person must press soon")
    due.add_argument("--within", type=days, default=7, metavar="DAYS")
    due.add_argument("--site")
    add_common(due, _due)


async def _list(args: argparse.Namespace) -> int:
    from gateway.cli._asked import check_site
    from gateway.coverage.facts import Sort

    registry = await open_registry(args)
    rows: list[dict[str, Any]] = []
    try:
        check_site(registry, args.site)
        async for page in registry.newest(Sort.SELF_TEST):
            for fact in page:
                site, point, device = fact.subject
                if point and fact.value and args.site in (None, site):
                    rows.append({"site": site, "point": point, "device": device, **fact.value})
    finally:
        await registry.close()
    show(args, rows, empty="no self-test yet 尚无自检记录")
    return OK


async def _due(args: argparse.Namespace) -> int:
    from datetime import timedelta

    from gateway.cli._asked import check_site
    from gateway.clock import RealClock
    from gateway.coverage.contracts import contract_of, contracts_of
    from gateway.coverage.facts import Sort
    from gateway.coverage.view import is_out

    registry = await open_registry(args)
    try:
        check_site(registry, args.site)
        tested = {fact.subject[0]: fact async for page in registry.newest(Sort.LIVE_TEST) for fact in page}
        stages = {fact.subject[0]: fact.value async for page in registry.newest(Sort.STAGE) for fact in page}
        devices = [
            device
            for device in registry.devices()
            if args.site in (None, device.site) and not is_out(stages.get(device.id))
        ]
    finally:
        await registry.close()
    contracts = contracts_of(data_dir(args)[0].coverage.contract)
    soon = RealClock().now() + timedelta(days=args.within)
    rows = []
    for device in sorted(devices, key=lambda device: device.id):
        every = contract_of(device.kind, contracts).live_test_days
        last = tested.get(device.id)
        due = last.valid_from + timedelta(days=every) if last and every else None
        if every is not None and (due is None or due <= soon):
            rows.append({"device": device.id, "site": device.site, "kind": device.kind,
                         "last": last.valid_from if last else None, "due": due or "now"})  # fmt: skip
    show(args, rows, empty="nothing is due 没有到期的实测")
    return OK
