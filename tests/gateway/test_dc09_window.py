"""How many frames are out after a start."""

from __future__ import annotations

from gateway.forwarders.dc09._window import ANSWERS_A_PLACE, FIRST, Window


def test_answers_open_it_place_by_place_to_the_bound() -> None:
    window, sizes = Window(32), []
    for _ in range(40 * ANSWERS_A_PLACE):
        sizes.append(window.size)
        window.answered()
    assert sizes[::ANSWERS_A_PLACE][: 32 - FIRST + 1] == list(range(FIRST, 33))
    assert max(sizes) == sizes[-1] == 32


def test_a_site_file_may_ask_for_less_than_the_first() -> None:
    assert Window(1).size == 1
