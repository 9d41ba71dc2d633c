"""`set` and `remove` of what stands in the ledger: only what is said changes, and what is removed stays in the record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from gateway.cli._site_file import OK, audit_of, open_registry, os_actor, put, show

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Collection, Mapping

    from gateway.errors import ConfigError
    from gateway.model import Area, Point, Site
    from gateway.registry import Snapshot

    T = TypeVar("T", Area, Site, Point)


async def change(args: argparse.Namespace, shelf: Callable[[Snapshot], Mapping[str, T]], names: Collection[str]) -> int:
    """Set these fields of one thing to what the command line says of them; an empty text empties one. The exit code."""
    from dataclasses import asdict, fields, replace

    registry = await open_registry(args)
    try:
        known = shelf(registry.snapshot).get(args.id)
        if known is None:
            raise unknown(args.id)
        may_lack = {each.name for each in fields(known) if each.default is None}
        said: dict[str, Any] = {name: value for name in names if (value := getattr(args, name)) is not None}
        said |= {name: None for name, value in said.items() if value == "" and name in may_lack}
        wanted = replace(known, **said)
        await put(args, registry, [wanted], only="known")
        show(args, [asdict(shelf(registry.snapshot)[args.id])], empty="")
    finally:
        await registry.close()
    return OK


async def remove(
    args: argparse.Namespace, shelf: Callable[[Snapshot], Mapping[str, Site] | Mapping[str, Point]]
) -> int:
    """Take a thing out of the ledger. What was true of it stays in the record. The exit code."""
    from gateway.audit import Deed

    registry = await open_registry(args)
    try:
        known = shelf(registry.snapshot).get(args.id)
        if known is None:
            raise unknown(args.id)
        kind = type(known).__name__.lower()
        await audit_of(args).record(os_actor(), Deed.REGISTRY, f"{kind} {args.id}", {"removed": True})
        gone = await registry.remove(known, actor=os_actor().id)
    finally:
        await registry.close()
    show(args, [{"removed": type(thing).__name__.lower(), "id": thing.id} for thing in gone], empty="")
    return OK


def unknown(name: str) -> ConfigError:
    from gateway.errors import ConfigError, Problem

    found = f"{name!r} is not in the ledger"
    return ConfigError([Problem("command line", None, "id", found, "an id of the ledger", "台账中没有该编号")])
