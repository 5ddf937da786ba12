"""Receipts: cheap to make, and true: delivered only after the server's yes, with the reason where there is none."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from traceback import walk_tb
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metriclog.errors import JournalFullError, MetriclogError, NotDeliveredError, QuarantinedError
from metriclog.receipts import Delivery, Receipt

DEADLINE_S = 30.0


def when_somebody_waits(delivery: Delivery, act: Callable[[], None]) -> None:
    """Do this, once and in another thread, as soon as somebody waits: waiting wakes the shipper."""
    once = threading.Lock()

    def wake() -> None:
        if once.acquire(blocking=False):
            threading.Thread(target=act).start()

    delivery.wake = wake


# -- what a receipt says ------------------------------------------------------------------------------------------


def test_a_point_is_delivered_when_its_position_is_acknowledged() -> None:
    delivery = Delivery()
    first, second = Receipt(delivery, 100), Receipt(delivery, 200)
    assert (first.delivered, repr(first)) == (False, "<Receipt pending>")
    delivery.advance(150)
    assert (first.delivered, second.delivered) == (True, False)
    assert repr(first) == "<Receipt delivered>"
    delivery.advance(120)  # a second shipper, behind
    assert first.delivered
    delivery.advance(200)
    assert second.delivered
    assert second.wait(0)
    assert second.exception() is None
    second.result(0)


def test_a_point_that_was_refused_is_not_delivered_and_says_why() -> None:
    delivery = Delivery()
    delivery.refuse(100, 200, "field type conflict")
    before, refused, after = Receipt(delivery, 100), Receipt(delivery, 200), Receipt(delivery, 300)
    assert refused.exception() is None  # the ack comes next
    delivery.advance(300)
    assert [receipt.delivered for receipt in (before, refused, after)] == [True, False, True]
    assert not refused.wait(DEADLINE_S)
    error = refused.exception()
    assert isinstance(error, QuarantinedError)
    assert error.reason == "field type conflict"
    with pytest.raises(QuarantinedError, match="field type conflict"):
        refused.result(DEADLINE_S)
    before.result(0)
    after.result(0)


@given(refused=st.sets(st.integers(1, 20)), acked=st.integers(0, 21), asked=st.integers(1, 20), size=st.integers(1, 50))
def test_each_record_is_delivered_or_refused_by_itself(refused: set[int], acked: int, asked: int, size: int) -> None:
    delivery = Delivery()
    for record in refused:
        delivery.refuse((record - 1) * size, record * size, f"reason {record}")
    delivery.advance(acked * size)
    receipt = Receipt(delivery, asked * size)
    assert receipt.delivered == (asked <= acked and asked not in refused)
    error = receipt.exception()
    if asked <= acked and asked in refused:
        assert isinstance(error, QuarantinedError)
        assert error.reason == f"reason {asked}"
    else:
        assert error is None


# -- waiting ------------------------------------------------------------------------------------------------------


def test_waiting_ends_when_the_server_says_yes() -> None:
    delivery = Delivery()
    when_somebody_waits(delivery, lambda: delivery.advance(100))
    receipt = Receipt(delivery, 100)
    assert receipt.wait()
    receipt.result()


def test_waiting_ends_at_its_deadline_and_the_point_is_still_pending() -> None:
    receipt = Receipt(Delivery(), 100)
    began_s = time.monotonic()
    assert not receipt.wait(0.05)
    assert not receipt.wait(0)
    with pytest.raises(NotDeliveredError, match=r"after 0\.05 s; the point is safe in the journal"):
        receipt.result(0.05)
    assert 0.09 < time.monotonic() - began_s < DEADLINE_S
    assert receipt.exception() is None


def test_a_later_yes_is_found_by_a_receipt_that_gave_up_waiting() -> None:
    delivery = Delivery()
    receipt = Receipt(delivery, 100)
    assert not receipt.wait(0)
    delivery.advance(100)
    assert receipt.wait(0)


def test_many_threads_wait_for_one_yes() -> None:
    delivery = Delivery()
    started = threading.Barrier(8)

    def wait(position: int) -> bool:
        started.wait(DEADLINE_S)
        return Receipt(delivery, position).wait(DEADLINE_S)

    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(wait, position) for position in range(1, 8)]
        started.wait(DEADLINE_S)
        for position in range(1, 8):
            delivery.advance(position)
        assert all(future.result(DEADLINE_S) for future in waiting)


def test_when_shipping_ends_everybody_is_let_go_and_told_why() -> None:
    delivery = Delivery()
    over = NotDeliveredError("the run has ended")
    when_somebody_waits(delivery, lambda: delivery.end(over))
    delivery.advance(100)
    early, late = Receipt(delivery, 100), Receipt(delivery, 200)
    assert not late.wait()
    assert late.exception() is over
    with pytest.raises(NotDeliveredError, match="the run has ended"):
        late.result()
    assert early.delivered
    assert early.exception() is None
    early.result()


def test_points_that_were_dropped_to_make_room_are_told_from_those_refused() -> None:
    delivery = Delivery()
    dropped = JournalFullError("dropped")
    delivery.drop(100, 300, dropped)
    delivery.advance(400)
    assert [Receipt(delivery, position).exception() for position in (100, 200, 300, 400)] == [
        *[None, dropped, dropped, None]
    ]
    assert not Receipt(delivery, 200).wait(0)


# -- where nothing is shipped -------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", [NotDeliveredError("this run is offline"), JournalFullError("no room")])
def test_where_nothing_will_be_shipped_nobody_waits_and_the_reason_is_told(verdict: MetriclogError) -> None:
    receipt = Receipt(Delivery(verdict=verdict), 100)
    assert (receipt.delivered, receipt.wait(), receipt.exception()) == (False, False, verdict)
    with pytest.raises(type(verdict)) as caught:
        receipt.result()
    assert caught.value is verdict
    with pytest.raises(type(verdict)):
        run(awaited(receipt))


def test_asking_again_and_again_does_not_pile_up_tracebacks() -> None:
    verdict = NotDeliveredError("this run is offline")
    receipt = Receipt(Delivery(verdict=verdict), 100)
    depths = []
    for _ in range(5):
        with pytest.raises(NotDeliveredError):
            receipt.result()
        depths.append(len(list(walk_tb(verdict.__traceback__))))
    assert len(set(depths)) == 1


def test_where_nothing_has_to_be_delivered_nobody_waits_and_nothing_is_wrong() -> None:
    receipt = Receipt(Delivery(done=True), 0)
    assert not receipt.delivered
    assert receipt.exception() is None
    receipt.wait()
    receipt.result()
    run(awaited(receipt))


# -- await --------------------------------------------------------------------------------------------------------


async def awaited(receipt: Receipt) -> None:
    await receipt


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run this in an event loop of its own, with a deadline."""

    async def bounded() -> None:
        await asyncio.wait_for(work, DEADLINE_S)

    asyncio.run(bounded())


def test_await_returns_at_the_yes_and_at_once_afterwards() -> None:
    delivery = Delivery()
    when_somebody_waits(delivery, lambda: delivery.advance(100))
    receipt = Receipt(delivery, 100)
    run(awaited(receipt))
    run(awaited(receipt))


def test_await_raises_what_is_in_the_way() -> None:
    refusing, ending = Delivery(), Delivery()
    refusing.refuse(0, 100, "bad line")
    when_somebody_waits(refusing, lambda: refusing.advance(100))
    with pytest.raises(QuarantinedError, match="bad line"):
        run(awaited(Receipt(refusing, 100)))
    when_somebody_waits(ending, lambda: ending.end(NotDeliveredError("the run has ended")))
    with pytest.raises(NotDeliveredError, match="the run has ended"):
        run(awaited(Receipt(ending, 100)))


def test_two_event_loops_can_await_one_receipt() -> None:
    delivery = Delivery()
    receipt = Receipt(delivery, 100)
    waiting = threading.Semaphore(0)
    delivery.wake = waiting.release
    with ThreadPoolExecutor(2) as pool:
        loops = [pool.submit(run, awaited(receipt)) for _ in range(2)]
        for _ in loops:
            assert waiting.acquire(timeout=DEADLINE_S)
        delivery.advance(100)
        for loop in loops:
            loop.result(DEADLINE_S)


def test_somebody_who_left_before_the_yes_harms_nobody() -> None:
    delivery = Delivery()
    abandoned, patient = Receipt(delivery, 100), Receipt(delivery, 100)

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(awaited(abandoned), 0.01)

    asyncio.run(give_up())  # its loop is closed when the yes comes
    waiting = threading.Event()
    delivery.wake = waiting.set
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(run, awaited(patient))
        assert waiting.wait(DEADLINE_S)
        delivery.advance(100)
        other.result(DEADLINE_S)
    assert abandoned.delivered


# -- cost ---------------------------------------------------------------------------------------------------------


def test_a_receipt_is_two_references_and_starts_nothing() -> None:
    delivery = Delivery()
    threads = threading.active_count()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        receipts = [Receipt(delivery, 100) for _ in range(10_000)]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 64 * len(receipts)
    assert threading.active_count() == threads
    assert not hasattr(receipts[0], "__dict__")
    assert sys.getrefcount(delivery) > len(receipts)
