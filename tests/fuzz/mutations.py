"""Inputs that nobody would think of, always the same ones for a seed: damaged vectors, well-sealed nonsense, noise."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

Seal = Callable[[bytes], bytes]
"""Puts the protocol's own envelope (length, check) around a content, so that it is the content that is tried."""

INPUT_BYTES_MAX = 2048
INTERESTING = (0, 1, 0x0A, 0x0D, 0x22, 0x24, 0x2A, 0x2C, 0x53, 0x5B, 0x5D, 0x7C, 0x7D, 0x7E, 0x7F, 0x80, 0xFE, 0xFF)
NUMBERS = (b"0", b"-1", b"1e309", b"255", b"65536", b"4294967296", b"99999999999999999999", b"NaN", b"0x10", b"")
WORDS: Sequence[Any] = (
    None,
    True,
    False,
    0,
    -1,
    1e308,
    2**64,
    "",
    "on",
    "\x00",
    "密" * 40,
    "x" * 300,
    [],
    {},
    [[]],
    {"": {}},
)


def damaged(seed: bytes, random: Random) -> bytes:
    """One to four wounds: a bit, a byte, a piece lost, doubled or moved, a number changed, the end lost."""
    data = bytearray(seed)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        at = random.randrange(len(data) + 1)
        size = random.randrange(1, 9)
        match random.randrange(8):
            case 0 if data:
                data[at % len(data)] ^= 1 << random.randrange(8)
            case 1 if data:
                data[at % len(data)] = random.choice(INTERESTING)
            case 2:
                del data[at : at + size]
            case 3:
                data[at:at] = data[at : at + size]
            case 4:
                data[at:at] = random.randbytes(size)
            case 5:
                data[at : at + size] = random.choice(NUMBERS)
            case 6:
                del data[at:]
            case _:
                other = random.randrange(len(data) + 1)
                data[at:at] = data[other : other + 4 * size]
    return bytes(data[:INPUT_BYTES_MAX])


def fields_moved(seed: bytes, random: Random) -> bytes:
    """The same with whole fields of text between commas, bars and brackets."""
    separator = random.choice((b",", b"|", b"[", b"/", b" "))
    fields = seed.split(separator)
    at, other = random.randrange(len(fields)), random.randrange(len(fields))
    match random.randrange(4):
        case 0:
            del fields[at]
        case 1:
            fields[at:at] = fields[other : other + 3]
        case 2:
            fields[at], fields[other] = fields[other], fields[at]
        case _:
            fields[at] = random.choice(NUMBERS)
    return separator.join(fields)[:INPUT_BYTES_MAX]


def reshaped(content: Any, random: Random) -> Any:
    """A JSON value with one member lost, renamed, or of another kind; deep ones too."""
    if isinstance(content, dict) and content:
        name = random.choice(list(content))
        changed = dict(content)
        match random.randrange(4):
            case 0:
                del changed[name]
            case 1:
                changed[name] = random.choice(WORDS)
            case 2:
                changed[random.choice((name + "_", name.upper(), "", "device"))] = changed.pop(name)
            case _:
                changed[name] = reshaped(changed[name], random)
        return changed
    if isinstance(content, list) and content:
        at = random.randrange(len(content))
        return [*content[:at], reshaped(content[at], random), *content[at:]]
    return random.choice(WORDS)


def json_reshaped(seed: bytes, random: Random) -> bytes:
    """JSON stays JSON; what is none is damaged."""
    try:
        content = json.loads(seed)
    except ValueError:
        return damaged(seed, random)
    return json.dumps(reshaped(content, random), ensure_ascii=random.random() < 0.5).encode()


def inputs(seeds: Sequence[bytes], contents: Sequence[bytes], seal: Seal | None, random: Random) -> Iterator[bytes]:
    """For ever. `contents` are what stands inside the envelopes of `seeds`."""
    while True:
        draw = random.random()
        if draw < 0.1:
            yield random.randbytes(random.randrange(1, 80))
        elif draw < 0.15:  # a flood of beginnings: what is never whole must not be held on to
            seed = random.choice(seeds)
            piece = seed[: random.randrange(1, len(seed) + 1)]
            again = random.choice((piece, random.randbytes(1)))
            yield (piece + again * (INPUT_BYTES_MAX // len(again)))[: random.randrange(1, INPUT_BYTES_MAX)]
        elif draw < 0.5 or seal is None:
            seed = random.choice(seeds)
            yield json_reshaped(seed, random) if seed[:1] == b"{" and draw > 0.3 else damaged(seed, random)
        else:
            content = random.choice(contents)
            yield seal(fields_moved(content, random) if draw < 0.6 else damaged(content, random))
