"""`fangkong migrate`: bring the files of this box up to date, guarded, and say what was done."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from gateway.cli._site_file import OK, add_common, data_dir

if TYPE_CHECKING:
    from gateway.cli import Commands


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "migrate",
    )
    add_common(parser, _migrate)


async def _migrate(args: argparse.Namespace) -> int:
    from gateway.clock import RealClock
    from gateway.registry import migrate
    from gateway.store.sqlite import SqliteStore

    folder = data_dir(args)[1]
    # Opening the log takes hold of the directory: a running daemon makes this fail before anything is touched.
    store = await SqliteStore.open(folder, RealClock())
    try:
        salvaged = store.state.salvaged
        applied = await migrate(folder / "registry.db", rebuild=True)
    finally:
        await store.close()
    if args.json:
        print(json.dumps({"ok": True, "registry": applied, "salvaged": salvaged or None}))
        return OK
    print(f"ledger: {', '.join(applied) + ' applied' if applied else 'up to date 已是最新'}")
    print(f"event log: {'damaged file set aside as ' + salvaged if salvaged else 'up to date 已是最新'}")
    return OK
