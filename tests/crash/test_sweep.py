"""Some of the n-th system calls, for each case; `make crash` goes through all of them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest

from simulators.police_centre import PoliceCentre
from tests.conftest import tool
from tests.crash.sweep import CODE, KIND, PATIENCE_S, REPEAT_S, settled, sweep
from tests.crash.town import town
from tests.stories.box import until


@pytest.mark.full
@pytest.mark.row("A1")
@pytest.mark.row("A2")
@pytest.mark.row("A5")
async def test_killed_at_any_call_between_a_devices_word_and_110s_answer(tmp_path: Path) -> None:
    tool("mosquitto"), tool("strace")
    found = await sweep(tmp_path, "an event", most=40)
    print(found)

    assert (found.lost, found.doubled) == (0, 0)
    assert set(found.windows) >= {"A1", "A2", "A5"}, found


@pytest.mark.full
@pytest.mark.row("A3")
async def test_killed_before_it_is_forwarded_it_is_forwarded_after_the_restart(tmp_path: Path) -> None:
    tool("mosquitto")
    async with town(tmp_path, seed=1) as place:
        place.switch_on(1, repeat_s=REPEAT_S)
        for count in range(1, 4):
            await place.centre.off()
            await place.start()
            await place.ready()
            await place.devices[0].do(KIND)
            await until(
                lambda count=count: place.world.ledger.acknowledged_count == count,
                within_s=PATIENCE_S,
                what="the device is told",
            )
            await place.kill()
            assert len(keys_of_panics(place.centre)) == count - 1
            await place.centre.on()
            await place.start()
            await settled(place)

            assert len(keys_of_panics(place.centre)) == count
            await place.kill()
        assert place.centre.audit.new_key_duplicates == 0


@pytest.mark.full
@pytest.mark.row("A4")
async def test_killed_before_110s_answer_the_same_goes_again_under_the_same_key(tmp_path: Path) -> None:
    tool("mosquitto")
    async with town(tmp_path, seed=1) as place:
        place.switch_on(1, repeat_s=REPEAT_S)
        for count in range(1, 4):
            place.centre.misbehave("late", seconds=60, frames="event")
            await place.start()
            await place.ready()
            await place.devices[0].do(KIND)
            await place.centre.wait_for(
                lambda centre, count=count: len(keys_of_panics(centre)) == count, timeout_s=PATIENCE_S
            )
            await place.kill()  # it has been sent, and not been answered
            place.centre.behave()
            seen = len(keys_of_panics(place.centre, repeats=True))
            await place.start()
            await settled(place)

            assert len(keys_of_panics(place.centre, repeats=True)) > seen
            assert len(keys_of_panics(place.centre)) == count
            await place.kill()
        assert place.centre.audit.new_key_duplicates == 0


def keys_of_panics(centre: PoliceCentre, *, repeats: bool = False) -> Collection[str | None]:
    keys = [row.key for row in centre.received if row.code == CODE]
    return keys if repeats else set(keys)


@pytest.mark.full
@pytest.mark.row("A6")
@pytest.mark.parametrize("case", ["start after a kill", "first start of all", "recovery", "orderly end"])
async def test_killed_at_any_call_on_its_files_the_next_start_completes(tmp_path: Path, case: str) -> None:
    """The orderly end empties the write-ahead log: that is the checkpoint."""
    tool("mosquitto"), tool("strace")
    found = await sweep(tmp_path, case, most=12)
    print(found)

    assert (found.lost, found.doubled) == (0, 0)
    assert found.kills > found.missed
