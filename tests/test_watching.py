"""What is said of findings: once, again after the cooldown, at once if it gets worse, when it is over, and no flood."""

from __future__ import annotations

import math
from dataclasses import replace

from metriclog.divergence import Finding
from metriclog.watching import Notice, Teller

SPIKE = Finding("spike", "train/loss", "", "warning", 7, 3.0, 0.5, 128, "lower the learning rate")
NAN = Finding("nonfinite", "train/loss", "", "critical", 9, math.nan, None, 1, "stop")
COOLDOWN_S = 300.0


class Told:
    """A teller whose clock the test moves, and what it told."""

    def __init__(self, most: int = 100) -> None:
        self.now_s = 0.0
        self.teller = Teller(COOLDOWN_S, most, lambda: self.now_s)

    def say(self, finding: Finding, nonfinite: int = 0) -> list[Notice]:
        count = self.teller.is_news(finding, nonfinite)
        return self.teller.notices(finding, count) if count else []


def titles(notices: list[Notice]) -> list[object]:
    return [notice.fields["title"] for notice in notices]


# -- once, and again ----------------------------------------------------------------------------------------------


def test_the_same_trouble_is_said_once_until_the_cooldown_is_over_and_then_again_while_it_goes_on() -> None:
    told = Told()
    said = []
    for now_s in range(0, 700, 10):
        told.now_s = now_s
        said += [(now_s, notice.kind) for notice in told.say(SPIKE)]
    assert said == [(0, "divergence"), (300, "divergence"), (600, "divergence")]


def test_what_differs_in_metric_rank_or_rule_is_another_trouble() -> None:
    told = Told()
    others = [SPIKE, replace(SPIKE, metric="eval/loss"), replace(SPIKE, rank="3"), replace(SPIKE, rule="explosion")]
    assert [len(told.say(finding)) for finding in others + others] == [1, 1, 1, 1, 0, 0, 0, 0]


def test_what_gets_worse_passes_the_cooldown_and_what_gets_better_does_not() -> None:
    told = Told()
    critical = replace(SPIKE, level="critical")
    assert [len(told.say(finding)) for finding in (SPIKE, critical, critical, SPIKE, critical)] == [1, 1, 0, 0, 0]


# -- over ---------------------------------------------------------------------------------------------------------


def test_the_end_of_a_trouble_is_said_once_as_information() -> None:
    told = Told()
    told.say(SPIKE)
    over = replace(SPIKE, recovered=True, step=20, value=0.4)
    (notice,) = told.say(over)
    assert (notice.kind, notice.fields["level"], notice.fields["title"]) == (
        "recovery",
        "info",
        "Over: Spike: train/loss",
    )
    assert told.say(over) == []


def test_the_end_of_what_was_never_said_is_not_said_either() -> None:
    told = Told()
    assert told.say(replace(SPIKE, recovered=True)) == []


def test_a_trouble_that_comes_and_goes_is_one_trouble_within_the_cooldown() -> None:
    told = Told()
    over = replace(SPIKE, recovered=True)
    assert [len(told.say(finding)) for finding in (SPIKE, over, SPIKE, over, SPIKE, over)] == [1, 1, 0, 0, 0, 0]
    told.now_s = COOLDOWN_S
    assert [len(told.say(finding)) for finding in (SPIKE, over)] == [1, 1]


# -- no flood -----------------------------------------------------------------------------------------------------


def test_beyond_the_limit_one_last_alert_says_so_and_the_end_says_how_many_there_were() -> None:
    told = Told(most=3)
    said = [told.say(replace(SPIKE, metric=f"m{number}/loss")) for number in range(10)]
    assert [len(notices) for notices in said] == [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert titles(said[3]) == ["More alerts are suppressed: 3 have been written"]
    (last,) = told.teller.last_words(99)
    assert (last.kind, last.metric, last.step, last.fields["count"]) == ("alert", None, 99, 7)


def test_a_run_without_a_flood_has_no_last_words() -> None:
    told = Told()
    told.say(SPIKE)
    assert told.teller.last_words(1) == []


def test_very_many_troubles_take_no_more_memory_than_many() -> None:
    told = Told(most=1 << 30)
    for number in range(25_000):
        told.say(replace(SPIKE, metric=f"loss{number}"))
    assert len(told.teller._troubles) <= 10_000


# -- what an event holds ------------------------------------------------------------------------------------------


def test_an_alert_holds_what_a_reader_needs_to_judge_it() -> None:
    (notice,) = Told().say(replace(SPIKE, rank="3"))
    assert (notice.kind, notice.metric, notice.step) == ("divergence", "train/loss", 7)
    assert notice.fields == {
        "title": "Spike: train/loss",
        "text": "step 7, value 3, baseline 0.5, window 128, rank 3. lower the learning rate",
        "level": "warning",
        "rule": "spike",
        "value": 3.0,
        "baseline": 0.5,
        "window": 128,
        "count": 1,
    }


def test_what_is_not_finite_has_a_kind_of_its_own_a_name_and_no_value() -> None:
    told = Told()
    (notice,) = told.say(NAN, nonfinite=1)
    assert (notice.kind, notice.fields["title"]) == ("nonfinite", "train/loss is NaN")
    assert "value" not in notice.fields
    assert "baseline" not in notice.fields
    (infinite,) = told.say(replace(NAN, metric="grad_norm", value=-math.inf))
    assert infinite.fields["title"] == "grad_norm is -Inf"


def test_an_event_counts_what_was_not_finite_since_the_last_such_event() -> None:
    told = Told()
    counts = []
    for now_s, so_far in [(0, 1), (10, 50), (300, 120), (310, 130), (600, 180)]:
        told.now_s = now_s
        counts += [notice.fields["count"] for notice in told.say(NAN, nonfinite=so_far)]
    assert counts == [1, 119, 60]


def test_a_rule_that_nobody_has_heard_of_has_a_title_all_the_same() -> None:
    (notice,) = Told().say(replace(SPIKE, rule="too_good_to_be_true"))
    assert notice.fields["title"] == "Too good to be true: train/loss"
