"""`fangkong explain`: what a driver makes of frames, without a daemon or a database. One JSON object a frame."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from types import ModuleType

    from gateway.driver import Context, Observation

DESCRIPTION = """\
Print what a driver makes of frames, one JSON object each.

PROTOCOL is a driver (or one by its dotted path, or its FILE.py) or a device profile. Stream and bus drivers take HEX, one argument a
frame; blanks and colons are skipped, and arguments of single bytes are one frame together. MQTT drivers take
TOPIC<TAB>PAYLOAD. "-" reads one frame per line from standard input.
Exit codes: 0 every frame is good, 1 a frame is not, 2 the command or a profile is wrong."""
LINE_BYTES_MAX = 1 << 20
"""One input line: an MQTT payload of half a megabyte in hex; a binary file given by mistake ends here."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Put `explain` on the command line."""
    parser = subparsers.add_parser(
        "explain",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("protocol", metavar="PROTOCOL", help="driver or profile name")
    parser.add_argument("frames", metavar="HEX", nargs="+", help='frames, or "-" for standard input')
    add_driver_options(parser)
    parser.set_defaults(run=run)


def add_driver_options(parser: argparse.ArgumentParser) -> None:
    """What a driver needs to know that runs without a site file."""
    parser.add_argument("--profile", metavar="NAME", help="device profile (the driver's setting `profile`)")
    parser.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], help="any setting, VALUE as in TOML"
    )
    parser.add_argument("--profiles-dir", metavar="D", type=Path, help="own profiles, as in [gateway] profiles_dir")


def run(args: argparse.Namespace) -> int:
    """Explain every frame. Returns the exit code."""
    from gateway.errors import ConfigError

    try:
        driver, context = prepare(args.protocol, args.profile, args.set, args.profiles_dir)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    is_good = True
    for text in _inputs(args.frames, is_topics=driver.LINK == "topics"):
        for explained in explain(driver, context, text):
            print(json.dumps(explained, ensure_ascii=False), flush=True)
            is_good = is_good and bool(explained["ok"])
    return 0 if is_good else 1


def _inputs(arguments: Sequence[str], *, is_topics: bool) -> Iterator[str]:
    if list(arguments) == ["-"]:
        while line := sys.stdin.buffer.readline(LINE_BYTES_MAX):
            text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
            if text:
                yield text
    elif is_topics and len(arguments) == 2 and "\t" not in arguments[0]:
        yield "\t".join(arguments)
    elif not is_topics and all(re.fullmatch(r"[0-9A-Fa-f]{2}", argument) for argument in arguments):
        yield "".join(arguments)
    else:
        yield from arguments


# -- the driver and what it needs --------------------------------------------------------------------------------------


def prepare(
    protocol: str, profile: str | None, settings: Sequence[str], profiles_dir: Path | None
) -> tuple[ModuleType, Context]:
    """The driver module and the context to decode in. Raises ConfigError."""
    from gateway.driver import Context
    from gateway.loader import load_driver, load_file, load_profiles, load_secrets, load_settings

    driver, of_profile = (
        (load_file(Path(protocol)), None) if protocol.endswith(".py") else load_driver(protocol, profiles_dir)
    )
    content: dict[str, Any] = dict(_setting(text) for text in settings)
    if chosen := profile or of_profile:
        content["profile"] = chosen
    checked = load_settings(driver, content, file="command line", lines={}, at=())
    profiles = load_profiles(driver, profiles_dir)
    if chosen and chosen not in profiles:
        raise _wrong("--profile", f'"{chosen}" is not known', f"one of {', '.join(sorted(profiles)) or 'none'}")
    secrets = load_secrets(driver, checked, Path())
    return driver, Context(settings=checked, profiles=profiles, connection="explain", secrets=secrets)


def _setting(text: str) -> tuple[str, Any]:
    import tomllib

    name, equals, value = text.partition("=")
    if not equals:
        raise _wrong("--set", f"found {text!r}", "NAME=VALUE")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value  # an unquoted word is text


def _wrong(key: str, found: str, expected: str) -> Exception:
    from gateway.errors import ConfigError, Problem

    return ConfigError([Problem("command line", None, key, found, expected)])


# -- one frame ---------------------------------------------------------------------------------------------------------


def explain(driver: ModuleType, context: Context, text: str) -> Iterator[dict[str, Any]]:
    """One object for each frame in one input line."""
    if driver.LINK == "topics":
        topic, tab, payload = text.partition("\t")
        if not tab:
            yield _failed(f"found {text[:60]!r}, expected TOPIC<TAB>PAYLOAD")
            return
        yield _explained(driver, context, topic, payload.encode("utf-8", "surrogateescape"))
        return
    digits = re.sub(r"0[xX]|[\s:]", "", text)
    if not re.fullmatch(r"([0-9A-Fa-f]{2})+", digits):
        yield _failed(f"found {text[:60]!r}, expected pairs of hex digits")
        return
    for frame in _frames(driver, bytes.fromhex(digits)):
        yield _explained(driver, context, frame)


def _frames(driver: ModuleType, stream: bytes) -> Iterable[bytes]:
    """Complete frames; what is left over is handed on too, so that the driver says what is wrong with it."""
    buffer = bytearray(stream)
    frames = list(driver.split(buffer))
    return [*frames, bytes(buffer)] if buffer or not frames else frames


def _explained(driver: ModuleType, context: Context, *frame: str | bytes) -> dict[str, Any]:
    from gateway.errors import FrameError

    give_answer = getattr(driver, "answer", None)
    give_deviations = getattr(driver, "deviations", None)
    try:
        seen = driver.decode(*frame, context)
        answer = give_answer(*frame, context) if give_answer else None
        deviations = list(give_deviations(*frame, context)) if give_deviations else []
    except FrameError as error:
        return _failed(str(error))
    return {
        "ok": True,
        "observations": [as_json(one) for one in seen],
        "answer": _as_text(answer),
        "deviations": deviations,
    }


def _failed(error: str) -> dict[str, Any]:
    return {"ok": False, "error": error}


def _as_text(answer: bytes | tuple[str, bytes] | None) -> str | None:
    """Bytes as hex; an MQTT answer as the topic and the payload it is published with."""
    if answer is None:
        return None
    if isinstance(answer, bytes):
        return answer.hex()
    topic, payload = answer
    return f"{topic} {payload.decode('utf-8', 'backslashreplace')}"


def as_json(seen: Observation) -> Mapping[str, Any]:
    """An observation with the names of the record; what the frame does not say is null."""
    from datetime import UTC

    position = seen.position
    return {
        "kind": str(seen.kind),
        "qualifier": str(seen.qualifier),
        "device": seen.device,
        "zone": seen.zone,
        "at": seen.at.astimezone(UTC).isoformat().replace("+00:00", "Z") if seen.at else None,
        "latitude": position.latitude if position else None,
        "longitude": position.longitude if position else None,
        "speed_kmh": position.speed_kmh if position else None,
        "values": dict(seen.values),
        "code": seen.code,
        "text": seen.text,
        "repeat_key": seen.repeat_key,
        "test": seen.test,
    }
