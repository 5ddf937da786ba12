"""The sender, answer by answer: what is retried and for how long, what is split, kept, refused, and how loudly."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable

import pytest

from metriclog.errors import (
    BadRequestError,
    PartialWriteError,
    RejectedError,
    ServerError,
    TooLargeError,
    TransientError,
    UnparsableError,
)
from metriclog.sender import Control, Sender
from metriclog.testing import ScriptedTarget


class VirtualControl(Control):
    """Its sleeps pass at once, on a clock of its own."""

    def __init__(self, **more: object) -> None:
        self.now_s = 1000.0
        self.slept: list[float] = []
        super().__init__(clock=lambda: self.now_s, rng=random.Random(7), **more)  # type: ignore[arg-type]

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


class PickyTarget(ScriptedTarget):
    """Answers by what is in the body: `judge` returns an error, or None for yes."""

    def __init__(self, judge: Callable[[list[bytes]], ServerError | None], well: bool = True) -> None:
        super().__init__()
        self._judge, self._well = judge, well

    def write(self, lines: bytes) -> None:
        self.writes += 1
        if error := self._judge(lines.splitlines()):
            raise error
        self.lines += lines.splitlines()

    def healthy(self) -> bool:
        return self._well


def lines_of(count: int) -> list[bytes]:
    return [b"metrics,run=r value=%d,step=%di %d\n" % (index, index, index + 1) for index in range(count)]


def bare(lines: list[bytes]) -> list[bytes]:
    return [line.rstrip(b"\n") for line in lines]


def refuses(
    bad: set[bytes], error: Callable[[list[bytes]], ServerError]
) -> Callable[[list[bytes]], ServerError | None]:
    """Yes to any body without one of these lines."""

    def judge(lines: list[bytes]) -> ServerError | None:
        hit = [line for line in lines if line in bad]
        return error(hit) if hit else None

    return judge


def partial_write(_: list[bytes]) -> ServerError:
    return PartialWriteError("partial write: field type conflict dropped=1", status=422)


def bad_request(_: list[bytes]) -> ServerError:
    return BadRequestError("the server said 400: line protocol parse failed", status=400)


def unparsable(hit: list[bytes]) -> ServerError:
    return UnparsableError("unable to parse", status=400, reasons=dict.fromkeys(hit, "missing fields"))


# -- trouble that passes ----------------------------------------------------------------------------------------


def test_passing_trouble_is_retried_without_limit_with_pauses_within_bounds(caplog: pytest.LogCaptureFixture) -> None:
    target, control = ScriptedTarget([TransientError("busy", status=503)] * 300), VirtualControl()
    assert Sender(target, control).deliver(lines_of(3)) == []
    assert (target.writes, target.lines) == (301, bare(lines_of(3)))
    assert control.retried == 300
    assert all(0.05 <= pause_s <= 60.0 for pause_s in control.slept)
    assert max(control.slept[:3]) <= 4.0
    assert max(control.slept[-200:]) > 30.0
    assert len(set(control.slept)) > 250, "without jitter, many clients come back at once"
    said = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) <= (control.now_s - 1000.0) / 60.0 + 2


def test_retry_after_is_obeyed_to_the_second() -> None:
    wishes = [TransientError("busy", status=429, retry_after_s=wish_s) for wish_s in (7.0, 1.5, 300.0)]
    control = VirtualControl()
    Sender(ScriptedTarget(wishes), control).deliver(lines_of(1))
    assert control.slept == [7.0, 1.5, 300.0]


def test_a_wrong_configuration_is_retried_slowly_and_drops_nothing() -> None:
    target, control = ScriptedTarget([RejectedError("401", status=401)] * 50), VirtualControl()
    assert Sender(target, control).deliver(lines_of(3)) == []
    assert target.lines == bare(lines_of(3))
    assert 15.0 <= control.slept[0] <= 30.0
    assert all(15.0 <= pause_s <= 300.0 for pause_s in control.slept)
    assert max(control.slept) > 150.0


def test_while_somebody_waits_it_is_tried_twice_a_second_whatever_the_error() -> None:
    errors = [TransientError("x", retry_after_s=200.0), RejectedError("x"), TransientError("x")]
    control = VirtualControl()
    control.hurry(100.0)
    Sender(ScriptedTarget([RejectedError("x"), *errors[1:] * 5]), control).deliver(lines_of(1))
    assert control.slept == [0.5] * 11
    control = VirtualControl()
    control.hurry(1.5)
    Sender(ScriptedTarget(errors[:1]), control).deliver(lines_of(1))
    assert control.slept == [1.5], "the server's wish counts as long as the wait goes on"


@pytest.mark.parametrize("wake", [lambda control: control.hurry(1.0), lambda control: control.end()])
def test_a_sleep_ends_when_somebody_waits_and_at_the_end(wake: Callable[[Control], None]) -> None:
    control = Control()
    asleep = threading.Thread(target=control.sleep, args=(60.0,))
    begin_s = time.monotonic()
    asleep.start()
    wake(control)
    asleep.join(10.0)
    assert not asleep.is_alive()
    assert time.monotonic() - begin_s < 10.0


def test_told_to_stop_it_raises_the_last_trouble() -> None:
    class Stopping(VirtualControl):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if len(self.slept) == 3:
                self.end()

    target = ScriptedTarget([TransientError(str(number)) for number in range(9)])
    with pytest.raises(TransientError, match="3"):
        Sender(target, Stopping()).deliver(lines_of(1))
    assert target.writes == 4


def test_with_a_limit_it_gives_up_so_long_after_the_last_yes() -> None:
    control = VirtualControl(give_up_after_s=100.0)
    target = ScriptedTarget([TransientError("busy")] * 1000)
    with pytest.raises(TransientError):
        Sender(target, control).deliver(lines_of(1))
    assert 1100.0 <= control.now_s < 1100.1


def test_an_unstable_server_is_not_worth_a_warning_each_time(caplog: pytest.LogCaptureFixture) -> None:
    answers = [answer for _ in range(200) for answer in (TransientError("busy"), None)]
    control = VirtualControl()
    sender = Sender(ScriptedTarget(answers), control)
    for line in lines_of(200):
        sender.deliver([line])
    minutes = (control.now_s - 1000.0) / 60.0
    assert len(caplog.records) <= 2 * (minutes + 1)
    assert control.last_error is None


def test_the_first_trouble_is_said_at_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    words: list[str | None] = []
    control = VirtualControl(trouble=words.append)
    Sender(ScriptedTarget([RejectedError("the server said 401. Check METRICLOG_TOKEN")]), control).deliver(lines_of(1))
    first, last = (record.getMessage() for record in caplog.records)
    assert first.startswith("metriclog: points wait in the journal")
    assert first.endswith("Check METRICLOG_TOKEN")
    assert last == "metriclog: a scripted target takes points again"
    assert words == ["the server said 401. Check METRICLOG_TOKEN", None]


def test_an_error_that_is_none_of_ours_is_not_swallowed() -> None:
    def judge(_: list[bytes]) -> ServerError | None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Sender(PickyTarget(judge), VirtualControl()).deliver(lines_of(1))


# -- what is split and refused ----------------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_halved_until_it_fits() -> None:
    target = PickyTarget(lambda lines: TooLargeError("413", status=413) if len(lines) > 10 else None)
    assert Sender(target, VirtualControl()).deliver(lines_of(1000)) == []
    assert sorted(target.lines) == sorted(bare(lines_of(1000)))


def test_a_single_line_that_is_too_large_is_refused_alone() -> None:
    long = b'events,run=r text="' + b"x" * 5000 + b'" 1\n'
    target = PickyTarget(lambda lines: TooLargeError("413", status=413) if len(b"".join(lines)) > 2000 else None)
    refused = Sender(target, VirtualControl()).deliver([*lines_of(10), long, *lines_of(10)])
    assert refused == [(long, "413")]
    assert len(target.lines) == 20


def test_lines_the_server_cannot_parse_are_refused_with_its_reason_and_the_rest_needs_one_more_post() -> None:
    lines = lines_of(5000)
    bad = {lines[7].rstrip(), lines[4000].rstrip()}
    target = PickyTarget(refuses(bad, unparsable))
    refused = Sender(target, VirtualControl()).deliver(lines)
    assert sorted(refused) == sorted([(lines[7], "missing fields"), (lines[4000], "missing fields")])
    assert (target.writes, len(target.lines)) == (2, 4998)


def test_an_unparsable_line_that_the_answer_does_not_name_is_found_by_halving() -> None:
    lines = lines_of(256)
    cut = refuses({lines[77].rstrip()}, lambda _: UnparsableError("cut off", status=400, reasons={b"another": "x"}))
    target = PickyTarget(cut)
    assert [line for line, _ in Sender(target, VirtualControl()).deliver(lines)] == [lines[77]]
    assert target.writes <= 2 * 8 + 1


@pytest.mark.parametrize("error", [partial_write, bad_request])
@pytest.mark.parametrize("positions", [{0}, {255}, {128}, {3, 4, 200}, {0, 1, 2, 3, 4, 5}])
def test_a_bad_line_is_found_by_halving_and_every_other_line_has_its_own_yes(
    error: Callable[[list[bytes]], ServerError], positions: set[int]
) -> None:
    lines = lines_of(256)
    bad = {lines[position] for position in positions}
    target = PickyTarget(refuses(set(bare(list(bad))), error))
    refused = Sender(target, VirtualControl()).deliver(lines)
    assert {line for line, _ in refused} == bad
    assert all(str(error([])) == reason for _, reason in refused)
    assert sorted(set(target.lines)) == sorted(set(bare(lines)) - set(bare(list(bad))))
    assert target.writes <= 2 * 8 * len(positions) + 1


def test_a_point_stored_without_one_field_counts_as_delivered() -> None:
    words = "partial write: input field time has been stripped from point. dropped=0"
    target = ScriptedTarget([PartialWriteError(words, status=422)] * 10)
    assert Sender(target, VirtualControl()).deliver(lines_of(1)) == []


def test_points_older_than_the_retention_are_refused_at_once_by_the_bound_the_server_names() -> None:
    lines = [b"m v=1 %d\n" % (number * 10**9) for number in range(1_700_000_000, 1_700_001_000)]

    def judge(body: list[bytes]) -> ServerError | None:
        words = "partial write: dropped points outside retention policy, Lower Bound at 2023-11-14T22:28:20Z"
        old = any(int(line.rsplit(b" ", 1)[1]) < 1_700_000_900 * 10**9 for line in body)
        return PartialWriteError(words, status=422) if old else None

    target = PickyTarget(judge)
    refused = Sender(target, VirtualControl()).deliver(lines)
    assert [line for line, _ in refused] == lines[:900]
    assert target.writes == 2


CONFLICT = (
    'partial write: field type conflict: input field "value" on measurement "metrics" is type float, '
    "already exists as type integer dropped=9"
)


@pytest.mark.parametrize("boundary", [0, 1, 2, 1777, 3998, 3999, 4000])
def test_a_conflict_of_type_in_one_of_two_shards_is_parted_at_the_boundary_with_few_posts(boundary: int) -> None:
    lines = lines_of(4000)
    others = [line.replace(b"metrics,", b"events,") for line in lines]
    bad = refuses(set(bare(lines[boundary:])), lambda _: PartialWriteError(CONFLICT, status=422))
    target = PickyTarget(bad)
    mixed = [line for pair in zip(others, lines, strict=True) for line in pair]
    refused = Sender(target, VirtualControl()).deliver(mixed)
    assert sorted(line for line, _ in refused) == sorted(lines[boundary:])
    assert all(reason == CONFLICT for _, reason in refused)
    assert sorted(set(target.lines)) == sorted(bare(others + lines[:boundary]))
    assert target.writes < 70


def test_a_conflict_of_type_over_days_is_not_judged_by_its_ends() -> None:
    hour_ns = 3600 * 10**9
    lines = [b"metrics,run=r value=1 %d\n" % (index * hour_ns) for index in range(48)]
    good = set(bare(lines[20:24]))
    target = PickyTarget(refuses(set(bare(lines)) - good, lambda _: PartialWriteError(CONFLICT, status=422)))
    refused = Sender(target, VirtualControl()).deliver(lines)
    assert {line.rstrip() for line, _ in refused} == set(bare(lines)) - good
    assert set(target.lines) == good


# -- what may be the request's fault, not the line's ------------------------------------------------------------


def test_a_refusal_of_the_only_line_is_kept_and_said_while_nothing_else_was_accepted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    control = VirtualControl()
    with pytest.raises(BadRequestError):
        Sender(ScriptedTarget([bad_request([])]), control).deliver(lines_of(1))
    assert len(control.slept) == 1
    assert control.slept[0] >= 15.0
    assert "line protocol parse failed" in str(control.last_error)
    assert "points wait in the journal" in caplog.text


def test_a_server_that_refuses_everything_gets_few_posts_and_nothing_is_given_up() -> None:
    target = PickyTarget(bad_request)
    with pytest.raises(BadRequestError):
        Sender(target, VirtualControl()).deliver(lines_of(20_000))
    assert target.writes < 100


def test_many_bad_lines_in_front_cannot_hide_the_good_ones_for_ever() -> None:
    lines = lines_of(256)
    target, control = PickyTarget(refuses(set(bare(lines[:128])), bad_request)), VirtualControl()
    sender, refused, attempts = Sender(target, control), None, 0
    while refused is None:
        attempts += 1
        with contextlib.suppress(BadRequestError):
            refused = sender.deliver(lines)
    assert sorted(line for line, _ in refused) == sorted(lines[:128])
    assert sorted(set(target.lines)) == sorted(bare(lines[128:]))
    assert attempts < 20


def test_one_line_that_always_breaks_a_server_that_is_well_does_not_hold_up_the_rest() -> None:
    lines = lines_of(64)
    bad = {lines[0].rstrip()}
    target = PickyTarget(refuses(bad, lambda _: TransientError("the server said 500: panic", status=500)))
    refused = Sender(target, VirtualControl()).deliver(lines)
    assert refused == [(lines[0], "the server said 500: panic")]
    assert sorted(set(target.lines)) == sorted(bare(lines[1:]))


def test_a_server_that_fails_on_everything_while_it_says_that_it_is_well_refuses_nothing_for_good() -> None:
    def fails(_: list[bytes]) -> ServerError | None:
        return TransientError("the server said 500: no space left on device", status=500)

    with pytest.raises(ServerError):
        Sender(PickyTarget(fails), VirtualControl()).deliver(lines_of(16))


def test_a_server_that_does_not_say_that_it_is_well_is_waited_for() -> None:
    class Recovers(PickyTarget):
        def write(self, lines: bytes) -> None:
            if self.writes == 50:
                self._judge = lambda _: None
            super().write(lines)

    target = Recovers(lambda _: TransientError("500", status=500), well=False)
    assert Sender(target, VirtualControl()).deliver(lines_of(16)) == []
    assert target.writes == 51


def test_nothing_to_send_is_not_sent() -> None:
    target = ScriptedTarget()
    assert Sender(target, VirtualControl()).deliver([]) == []
    assert target.writes == 0
