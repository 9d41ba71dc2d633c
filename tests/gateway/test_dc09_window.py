"""How many frames are out: prompt answers widen the window, late ones narrow it, a long line is no late answer."""

from __future__ import annotations

import pytest

from gateway.forwarders.dc09._window import LEAST, PROMPT_S, Window


def after(window: Window, *answers_s: float) -> int:
    for answer_s in answers_s:
        window.answered(answer_s)
    return window.size


@pytest.mark.parametrize("line_s", [0.0003, 0.004, 0.2], ids=["loopback", "lan", "long way"])
def test_prompt_answers_widen_it_to_the_bound_and_not_beyond(line_s: float) -> None:
    window = Window(32)
    assert window.size == LEAST
    assert after(window, *[line_s] * 600) == 32
    assert after(window, *[line_s * 1.5] * 600) == 32


def test_it_grows_by_one_for_each_round_of_answers() -> None:
    window = Window(32)
    assert after(window, *[0.001] * (LEAST - 1)) == LEAST
    assert after(window, 0.001, 0.001) == LEAST + 1


@pytest.mark.parametrize("line_s", [0.002, 0.2])
def test_late_answers_narrow_it_to_the_least_and_prompt_ones_widen_it_again(line_s: float) -> None:
    window = Window(32)
    after(window, *[line_s] * 600)
    assert after(window, *[5 * line_s] * 50) == LEAST
    assert after(window, *[line_s] * 600) == 32


def test_one_late_answer_among_many_is_none() -> None:
    window = Window(8)
    after(window, *[0.02] * 200)
    assert after(window, 0.1) == 8


def test_below_five_milliseconds_nothing_is_late() -> None:
    window = Window(8)
    assert after(window, 0.0001, *[PROMPT_S * 0.9] * 200) == 8


def test_a_site_file_may_ask_for_less_than_the_least() -> None:
    window = Window(1)
    assert after(window, *[0.001] * 10, *[1.0] * 10) == 1
