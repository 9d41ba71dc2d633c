"""Which delivery goes next, and how long to wait for a receiver: decided without a socket."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gateway.backoff import Backoff
from gateway.forwarders._lanes import FAULT_EVERY, LaneOrder, LaneQueue
from gateway.model import Delivery, Event, Kind, Lane, Place, Qualifier

AT = datetime(2027, 1, 15, 8, 30, tzinfo=UTC)
EVENT = Event("e", "d", Kind.BURGLARY, Qualifier.NEW, Lane.ALARM, AT, "test", "c")


def row(seq: int, lane: Lane = Lane.ALARM, account: str = "A10B") -> Delivery:
    place = Place(account, account, account, None, seq, "")
    return Delivery("110", replace(EVENT, seq=seq, lane=lane, place=place))


def test_urgent_first() -> None:
    order = LaneOrder()

    assert order.choose([Lane.BULK, Lane.LIFE, Lane.ALARM]) is Lane.LIFE
    assert order.choose([Lane.STATUS, Lane.BULK]) is Lane.STATUS


@given(st.lists(st.sets(st.sampled_from(Lane), min_size=1), min_size=1, max_size=300))
def test_only_a_starving_fault_overtakes_and_it_never_starves(situations: list[set[Lane]]) -> None:
    order, passed_over = LaneOrder(), 0
    for waiting in situations:
        lane = order.choose(waiting)
        if lane is Lane.FAULT:
            assert min(waiting) is Lane.FAULT or passed_over == FAULT_EVERY - 1
            passed_over = 0
        else:
            assert lane is min(waiting)
            passed_over += Lane.FAULT in waiting
        assert passed_over < FAULT_EVERY


def test_a_fault_gets_five_percent_of_a_busy_line() -> None:
    order = LaneOrder()
    sends = [order.choose(list(Lane)) for _ in range(1000)]

    assert sends.count(Lane.FAULT) == 50
    assert sends.count(Lane.LIFE) == 950


class TestLaneQueue:
    def test_one_out_per_account_in_the_order_of_the_store(self) -> None:
        queue = LaneQueue()
        for delivery in (row(1), row(2), row(3, account="B20C")):
            queue.add(delivery)

        assert [queue.take(), queue.take(), queue.take()] == [row(1), row(3, account="B20C"), None]
        queue.release("A10B")
        assert queue.take() == row(2)
        assert not queue

    def test_a_row_put_back_goes_first_again(self) -> None:
        queue = LaneQueue()
        for seq in (1, 2):
            queue.add(row(seq))
        first = queue.take()
        assert first is not None
        queue.put_back(first)

        assert queue.take() == row(1)

    def test_an_older_row_that_comes_later_goes_before_its_neighbours(self) -> None:
        queue = LaneQueue()
        for seq in (5, 6, 2):
            queue.add(row(seq))

        assert queue.take() == row(2)

    def test_a_reserved_account_sends_nothing(self) -> None:
        queue = LaneQueue()
        assert queue.reserve("A10B")
        assert not queue.reserve("A10B")
        queue.add(row(1))

        assert queue.take() is None
        queue.release("A10B")
        assert queue.take() == row(1)

    def test_only_the_lanes_asked_for(self) -> None:
        queue = LaneQueue()
        queue.add(row(1))

        assert queue.take([Lane.LIFE]) is None
        assert queue.take() == row(1)

    @given(
        st.lists(st.tuples(st.sampled_from(Lane), st.sampled_from(["A", "B", "C"])), max_size=40),
        st.randoms(use_true_random=False),
    )
    def test_whatever_happens_each_row_comes_once_and_in_its_accounts_order(
        self, rows: list[tuple[Lane, str]], dice: Random
    ) -> None:
        queue, out, given_out = LaneQueue(), list[Delivery](), list[Delivery]()
        coming = [row(seq, lane, account) for seq, (lane, account) in enumerate(rows, 1)]
        while coming or queue or out:
            step = dice.randrange(4)
            if step == 0 and coming:
                queue.add(coming.pop(0))
            elif step == 1 and (taken := queue.take()) is not None:
                assert taken.event.place not in [each.event.place for each in out]
                out.append(taken)
            elif step == 2 and out:
                queue.put_back(out.pop(dice.randrange(len(out))))
            elif step == 3 and out:
                done = out.pop(dice.randrange(len(out)))
                given_out.append(done)
                assert done.event.place is not None
                queue.release(done.event.place.account)

        assert sorted(each.event.seq for each in given_out) == list(range(1, len(rows) + 1))
        for lane in Lane:
            for account in "ABC":
                seqs = [e.event.seq for e in given_out if e.event.lane is lane and e.event.place.account == account]  # type: ignore[union-attr]  # all are claimed
                assert seqs == sorted(seqs)


class TestBackoff:
    def test_the_first_try_is_at_once_then_ever_longer_up_to_a_minute(self) -> None:
        class Highest(Random):
            def uniform(self, a: float, b: float) -> float:
                return b

        backoff = Backoff(Highest())
        assert [backoff.next_s() for _ in range(9)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]
        backoff.reset()
        assert backoff.next_s() == 0

    def test_full_jitter_spreads_from_zero_to_the_ceiling(self) -> None:
        backoff = Backoff(Random(7))
        waits = [backoff.next_s() for _ in range(500)][10:]

        assert max(waits) <= 60
        assert min(waits) < 3
        assert 25 < sum(waits) / len(waits) < 35
