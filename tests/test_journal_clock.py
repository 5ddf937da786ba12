"""Time stamps of a journal: strictly increasing whatever the clock does, and never the same in two processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metriclog.journal import SLOTS, Journal
from tests.journals import START_NS, Clock, log, make_journal, read_back

SECOND_NS = 1_000_000_000
HOUR_NS, DAY_NS = 3_600 * SECOND_NS, 86_400 * SECOND_NS


@pytest.fixture
def clock() -> Clock:
    """Moves on by a second at each look."""
    return Clock(tick_ns=SECOND_NS)


@pytest.fixture
def journal(tmp_path: Path, clock: Clock) -> Iterator[Journal]:
    made = make_journal(tmp_path / "0001-h1", slot=5, clock=clock, segment_bytes=1 << 20)
    yield made
    made.close()


def now_ns(journal: Journal) -> int:
    return journal.now_ns()


def appended_ns(journal: Journal) -> int:
    """The time stamp that a record gets."""
    log(journal, {"loss": 0.5}, 1)
    return int(read_back(journal.directory).times_ns[-1])


WAYS = pytest.mark.parametrize("stamp", [now_ns, appended_ns])


@WAYS
def test_a_time_stamp_is_the_clock_but_for_its_last_six_bits(
    journal: Journal, clock: Clock, stamp: Callable[[Journal], int]
) -> None:
    for _ in range(10):
        given_ns = stamp(journal)
        assert abs(given_ns - clock.now_ns) < SLOTS
        assert given_ns % SLOTS == 5


@WAYS
def test_in_one_tick_of_the_clock_time_stamps_go_on_by_a_slot_each(
    journal: Journal, clock: Clock, stamp: Callable[[Journal], int]
) -> None:
    clock.tick_ns = 0
    first = stamp(journal)
    assert [stamp(journal) - first for _ in range(20)] == [SLOTS * number for number in range(1, 21)]


def test_100_000_calls_in_one_tick_get_as_many_time_stamps(journal: Journal, clock: Clock) -> None:
    clock.tick_ns = 0
    stamps = [journal.now_ns() for _ in range(100_000)]
    assert all(before < after for before, after in pairwise(stamps))
    assert stamps[-1] - stamps[0] < 7_000_000  # 6.4 ms ahead: a clock that ticks every 16 ms has overtaken them
    clock.now_ns += 16_000_000
    assert abs(journal.now_ns() - clock.now_ns) < SLOTS


@WAYS
def test_a_clock_set_back_by_an_hour_slows_time_stamps_to_half_speed_until_it_has_caught_up(
    journal: Journal, clock: Clock, stamp: Callable[[Journal], int]
) -> None:
    clock.tick_ns = 60 * SECOND_NS
    before = stamp(journal)
    clock.now_ns -= HOUR_NS
    stamps = [before, *(stamp(journal) for _ in range(150))]
    gaps_s = [round((after - before) / SECOND_NS) for before, after in pairwise(stamps)]
    assert gaps_s[0] == 0
    slowed = gaps_s.index(60)
    assert gaps_s[1:slowed] == [30] * (slowed - 1)
    assert 116 <= slowed <= 121  # an hour back takes two hours to make good
    assert set(gaps_s[slowed + 1 :]) == {60}
    assert abs(stamps[-1] - clock.now_ns) < SLOTS


def test_a_clock_set_back_does_not_bunch_points_on_one_instant(journal: Journal, clock: Clock) -> None:
    journal.now_ns()
    clock.now_ns -= HOUR_NS
    stamps = [journal.now_ns() for _ in range(1_000)]
    assert min(after - before for before, after in pairwise(stamps[1:])) >= SECOND_NS // 2 - SLOTS


def test_a_clock_set_forward_by_a_day_is_believed_and_back_again_survived(journal: Journal, clock: Clock) -> None:
    before = journal.now_ns()
    clock.now_ns += DAY_NS
    ahead = journal.now_ns()
    assert ahead - before > DAY_NS
    clock.now_ns -= DAY_NS
    stamps = [ahead, *(journal.now_ns() for _ in range(100))]
    assert all(0 < after - before <= SECOND_NS for before, after in pairwise(stamps))


def test_a_laptops_sleep_does_not_shift_what_comes_after(journal: Journal, clock: Clock) -> None:
    journal.now_ns()
    clock.now_ns += 9 * HOUR_NS
    assert all(abs(journal.now_ns() - clock.now_ns) < SLOTS for _ in range(10))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(jumps=st.lists(st.integers(-DAY_NS, DAY_NS) | st.integers(-100, 100) | st.just(0), max_size=60))
def test_whatever_the_clock_does_time_stamps_strictly_increase(
    tmp_path_factory: pytest.TempPathFactory, jumps: list[int]
) -> None:
    clock = Clock(tick_ns=0)
    journal = make_journal(tmp_path_factory.mktemp("clock"), slot=9, clock=clock)
    stamps = []
    for index, jump in enumerate(jumps):
        clock.now_ns += jump
        if index % 2:
            stamps.append(journal.now_ns())
        else:
            log(journal, {"loss": index}, index)
            stamps.append(read_back(journal.directory).times_ns[-1])
    journal.close()
    assert all(before < after for before, after in pairwise(stamps))
    assert {given_ns % SLOTS for given_ns in stamps} <= {9}


def test_two_processes_at_the_same_instants_share_no_time_stamp(tmp_path: Path) -> None:
    stamps: list[int] = []
    for slot in range(SLOTS):
        clock = Clock(tick_ns=7)
        journal = make_journal(tmp_path / f"{slot}", slot=slot, clock=clock)
        stamps += [journal.now_ns() for _ in range(200)]
        clock.now_ns = START_NS - HOUR_NS
        stamps += [journal.now_ns() for _ in range(200)]
        journal.close()
    assert len(stamps) == len(set(stamps))


def test_an_explicit_time_stamp_is_taken_as_it_is_and_moves_no_clock(journal: Journal, clock: Clock) -> None:
    for time_ns in (0, 2**62, START_NS + 1, START_NS + 1):
        log(journal, {"loss": 0.5}, 1, time_ns=time_ns)
    assert read_back(journal.directory).times_ns == [0, 2**62, START_NS + 1, START_NS + 1]
    assert abs(appended_ns(journal) - clock.now_ns) < SLOTS


def test_all_metrics_of_a_record_share_its_time_stamp(journal: Journal) -> None:
    log(journal, {f"m{number}": number for number in range(50)}, 1)
    assert len(read_back(journal.directory).times_ns) == 1
