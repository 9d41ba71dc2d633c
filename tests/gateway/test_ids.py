"""Event ids, read by Python's own UUID."""

from __future__ import annotations

from random import Random
from uuid import RFC_4122, UUID

from gateway.ids import EventIds
from tests.conftest import JumpingClock


def test_ids_are_uuids_of_version_7_that_carry_the_time(jumping_clock: JumpingClock) -> None:
    made = EventIds(jumping_clock, Random(1)).next()

    assert str(UUID(made)) == made
    assert (UUID(made).version, UUID(made).variant) == (7, RFC_4122)
    assert UUID(made).int >> 80 == int(jumping_clock.now().timestamp() * 1000)


def test_ids_rise_within_a_millisecond_and_when_the_clock_steps_back(jumping_clock: JumpingClock) -> None:
    ids = EventIds(jumping_clock, Random(1))
    made = [ids.next() for _ in range(5000)]  # more than the counter holds
    jumping_clock.jump_wall(-3600.0)
    made += [ids.next() for _ in range(10)]

    assert made == sorted(set(made))
