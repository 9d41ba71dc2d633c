"""``python -m simulators.police_centre``: run a simulated 110 receiving centre until SIGTERM or SIGINT."""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simulators._clock import RealClock
from simulators.police_centre import wall
from simulators.police_centre.centre import PoliceCentre
from simulators.police_centre.misbehaviour import FRAMES, KINDS, from_spec


def key(text: str) -> bytes:
    """A key as typed: ``hex:`` with 32, 48 or 64 digits, or ``text:`` with 16, 24 or 32 characters."""
    how, _, digits = text.partition(":")
    if how == "text":
        return digits.encode("utf-8")
    if how == "hex":
        return bytes.fromhex(digits)
    raise ValueError(f"key: expected hex:... or text:..., found {how[:4]!r}...")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run; exit code 2 when it makes no sense."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.tcp is None and options.udp is None:
        parser.error("give --tcp or --udp, or both; such as --tcp 127.0.0.1:0")
    try:
        keys = dict(_account_and_key(text) for text in options.key)
        key_for_all = key(options.key_all) if options.key_all else None
        misbehave = [from_spec(spec) for spec in options.misbehave]
        centre = PoliceCentre(
            tcp=options.tcp,
            udp=options.udp,
            record=options.record,
            keys=keys,
            key_for_all=key_for_all,
            accounts=options.account or None,
            misbehave=misbehave,
            control=options.control,
        )
        asyncio.run(_run(centre, show_wall=options.wall, lang=options.lang))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return 0


def _account_and_key(text: str) -> tuple[str, bytes]:
    account, equals, typed = text.partition("=")
    if not equals:
        raise ValueError("--key: expected ACCOUNT=hex:... or ACCOUNT=text:...")
    return account, key(typed)


async def _run(centre: PoliceCentre, *, show_wall: bool, lang: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with centre, asyncio.TaskGroup() as group:
        _say({"ready": True, "tcp": centre.port or None, "udp": centre.udp_port or None, "control": centre.control})
        # The wall goes to stderr: stdout stays one JSON object a line.
        display = group.create_task(wall.show(centre, sys.stderr, RealClock(), lang)) if show_wall else None
        await stop.wait()
        if display is not None:
            display.cancel()
    _say({"summary": {"answers": dict(centre.answers), **centre.audit.summary()}})


def _say(what: dict[str, Any]) -> None:
    print(json.dumps(what, ensure_ascii=False), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulators.police_centre",
        description="A simulated 110 receiving centre that speaks SIA DC-09.",
        epilog="misbehaviours:\n"
        + "\n".join(f"  {kind:16} {what}" for kind, what in KINDS.items())
        + "\n  settings: count=N, share=0.0..1.0, seed=N, seconds=S, frames="
        + "|".join(FRAMES)
        + "\n  example: --misbehave drop_before_ack:share=0.1,seed=7",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tcp", metavar="HOST:PORT", help="listen on TCP; port 0 takes a free one")
    parser.add_argument("--udp", metavar="HOST:PORT", help="listen on UDP; port 0 takes a free one")
    parser.add_argument("--record", type=Path, metavar="FILE", help="append one JSON line per frame received")
    parser.add_argument(
        "--key", action="append", default=[], metavar="ACCOUNT=KEY", help="hex:... or text:..., 16, 24 or 32 bytes"
    )
    parser.add_argument("--key-all", metavar="KEY", help="the key of every account that has none of its own")
    parser.add_argument("--account", action="append", default=[], help="serve only these accounts; others get DUH")
    parser.add_argument("--misbehave", action="append", default=[], metavar="SPEC", help="KIND[:name=value,...]")
    parser.add_argument("--control", metavar="PORT|HOST:PORT|PATH", help="control socket; loopback or a UNIX path")
    parser.add_argument("--wall", action="store_true", help="show the wall display on stderr")
    parser.add_argument("--lang", choices=wall.LANGUAGES, default="zh", help="language of the wall")
    return parser


if __name__ == "__main__":
    sys.exit(main())
