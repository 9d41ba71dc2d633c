"""Whatever bytes come from outside: only the parser's own error, no time, no memory. Seeded, so that a failure comes again."""

from __future__ import annotations

import time
from itertools import islice
from random import Random

import pytest

from tests.fuzz.found import FOUND
from tests.fuzz.parsers import PARSERS, Parser

COUNTS = [
    pytest.param(2_000, id="2 000"),
    pytest.param(100_000, id="100 000", marks=pytest.mark.full),
    pytest.param(10_000_000, id="10 000 000", marks=pytest.mark.soak),
]
INPUT_S_MAX = 0.05
"""Of the thread's own time, for one input of at most 2 KiB: a loop that is held up longer answers everybody late."""
SHOWN_BYTES = 400


def judge(parser: Parser, data: bytes) -> None:
    """Fails with the input, to be put into tests/fuzz/found.py."""
    shown = f"{parser.name}: {data[:SHOWN_BYTES].hex()} ({len(data)} bytes)"
    took_s = float("inf")
    for _ in range(3):  # the collector may strike once
        began_s = time.thread_time()
        try:
            held = parser.feed(data)
        except Exception as error:
            error.add_note(shown)
            raise
        took_s = min(took_s, time.thread_time() - began_s)
        if took_s <= INPUT_S_MAX:
            break
    assert took_s <= INPUT_S_MAX, f"{took_s * 1000:.0f} ms for {shown}"
    assert held <= parser.held_max, f"holds on to {held} bytes, at most {parser.held_max}, after {shown}"


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", PARSERS)
def test_no_input_hurts_a_parser(name: str, count: int) -> None:
    parser = PARSERS[name]
    for data in islice(parser.inputs(Random(f"{name}/{count}")), count):
        judge(parser, data)


def test_what_once_hurt_a_parser_no_longer_does() -> None:
    for name, data in FOUND:
        judge(PARSERS[name], bytes.fromhex(data))


SEALED = [name for name, parser in PARSERS.items() if parser.seal is not None]


@pytest.mark.parametrize("name", SEALED)
def test_the_envelopes_are_those_of_the_vectors(name: str) -> None:
    """With a wrong one every input would be refused before its content is looked at."""
    parser = PARSERS[name]
    assert parser.seal is not None
    sealed = {parser.seal(content) for content in parser.contents}

    assert len(sealed & set(parser.seeds)) >= min(2, len(parser.seeds))
