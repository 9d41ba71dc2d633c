"""Logs: one JSON object a line, also for what a library says."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from gateway import logs


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    out = io.StringIO()
    logs.set_up("info", out)
    yield out
    root.handlers[:], root.level = before


def test_a_librarys_warning_is_one_of_our_lines_with_its_traceback_inside(lines: io.StringIO) -> None:
    try:
        {}["mid"]
    except KeyError:
        logging.getLogger("some.library").exception("it broke")

    (line,) = lines.getvalue().splitlines()
    found = json.loads(line)
    assert (found["event"], found["level"], found["library"]) == ("it broke", "error", "some.library")
    assert "KeyError" in found["exception"]


def test_what_our_links_report_themselves_is_not_said_twice(lines: io.StringIO) -> None:
    logging.getLogger("mqtt").error("Unexpected message ID")

    assert lines.getvalue() == ""


def test_words_stay_readable_and_one_record_is_one_line(lines: io.StringIO) -> None:
    logs.logger(box="demo").info("a sentence", reason="第一行\n第二行")

    (line,) = lines.getvalue().splitlines()
    assert "第一行" in line
    assert json.loads(line)["reason"] == "第一行\n第二行"
