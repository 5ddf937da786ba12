"""Follower: newest values, what is not finite and what the rules find, read from the journal while it is written."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from metriclog import follower as follower_module
from metriclog.divergence import Finding, NonFinite, Spike
from metriclog.follower import Follower
from metriclog.identity import Identity
from metriclog.journal import Journal
from metriclog.keeper import open_journal
from metriclog.peers import Peers
from metriclog.points import Tags
from metriclog.receipts import Delivery
from metriclog.settings import Settings

TAGS = (("experiment", "exp"), ("run", "r"))
SMALL = Settings(segment_bytes=64 << 10, free_floor_bytes=0)


def opened(root: Path, settings: Settings = SMALL, rank: int | None = None) -> Journal:
    path = root / "r" / f"{(rank or 0) + 1:04d}-host"
    path.mkdir(parents=True)
    who = identity(root, rank)
    return open_journal(path, who.meta(child=False), settings, (rank or 0) + 1, Delivery()).journal


def identity(root: Path, rank: int | None = None) -> Identity:
    ranked = () if rank is None else (("rank", str(rank)),)
    return Identity("exp", "r", rank, tuple(sorted((*TAGS, *ranked))), "online", root, 1, 0)


def log(own: Journal, step: int, *tags: Tags, **values: float) -> None:
    """Append values of one step, with the tags of the run or others."""
    whose = tags[0] if tags else TAGS
    own.append_values(own.shape((*values, whose), tuple(values), whose), step, values.values())


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Journal]:
    journal = opened(tmp_path)
    yield journal
    journal.close()


@pytest.fixture
def follower(own: Journal) -> Iterator[Follower]:
    with_rules = Follower(own, keep_events=True)
    yield with_rules
    with_rules.close()


def seen(follower: Follower) -> list[tuple[str, str, int]]:
    return [(found.rule, found.metric, found.step) for found in follower.follow() if not found.recovered]


# -- newest values ------------------------------------------------------------------------------------------------


def test_the_newest_value_of_each_metric_is_known_with_its_step_and_time(own: Journal, follower: Follower) -> None:
    for step in range(100):
        log(own, step, loss=1.0 / (step + 1), acc=step / 100)
    log(own, 100, acc=0.5)
    list(follower.follow())
    newest = follower.latest()
    assert {name: (it.value, it.step) for name, it in newest.items()} == {"loss": (0.01, 99), "acc": (0.5, 100)}
    assert newest["acc"].time_ns == follower.last_log_ns
    assert newest["loss"].time_ns < newest["acc"].time_ns


def test_it_reads_on_where_it_stopped(own: Journal, follower: Follower) -> None:
    for step in range(10):
        log(own, step, loss=float(step))
        list(follower.follow())
        assert follower.latest()["loss"].value == step


def test_it_follows_over_segments_and_shapes_declared_anew(own: Journal, follower: Follower) -> None:
    rng = random.Random(7)
    for step in range(20_000):
        log(own, step, **{name: float(step) for name in rng.sample("abcdef", 2)})
    list(follower.follow())
    assert own.position >> 40 > 5
    assert max(it.step for it in follower.latest().values()) == 19_999
    assert all(it.step > 19_900 for it in follower.latest().values())


def test_segments_that_were_deleted_meanwhile_are_passed_over(tmp_path: Path) -> None:
    own = opened(tmp_path)
    follower = Follower(own)
    log(own, 0, loss=1.0)
    list(follower.follow())
    for step in range(1, 20_000):
        log(own, step, loss=1.0)
    segments = sorted(own.directory.glob("*.seg"))
    for path in segments[1:-1]:
        path.unlink()
    list(follower.follow())
    assert follower.latest()["loss"].step == 19_999
    follower.close()
    own.abandon()


def test_a_follower_that_the_journal_has_left_far_behind_goes_on_with_what_is_left(tmp_path: Path) -> None:
    bounded = Settings(segment_bytes=64 << 10, journal_max_bytes=1 << 20, free_floor_bytes=0)
    own = opened(tmp_path, bounded)
    follower = Follower(own)
    for step in range(100_000):
        log(own, step, loss=1.0)
    assert own.dropped > 0
    list(follower.follow())
    assert follower.latest()["loss"].step == 99_999
    follower.close()
    own.close()


def test_damage_costs_the_record_it_hit(own: Journal, follower: Follower) -> None:
    for step in range(10):
        log(own, step, loss=float(step))
    place = own.position & (1 << 40) - 1
    log(own, 10, loss=10.0)
    with open(own.directory / "00000001.seg", "r+b") as file:
        file.seek(place + 4)
        file.write(b"\xff\xff\xff\xff")
    log(own, 11, loss=11.0)
    list(follower.follow())
    assert follower.latest()["loss"].step == 11


def test_beyond_a_limit_no_further_metric_is_remembered(
    own: Journal, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "MOST_METRICS", 50)
    monkeypatch.setattr(follower_module, "MOST_SHAPES", 20)
    for number in range(200):
        log(own, number, **{f"m{number}": 1.0, "always": float(number)})
    list(follower.follow())
    newest = follower.latest()
    assert len(newest) == 50
    assert newest["always"].value == 199.0


def test_it_stops_at_its_deadline_and_goes_on_later(own: Journal, follower: Follower) -> None:
    log(own, 1, loss=1.0)
    list(follower.follow(ends_s=-1.0))
    assert follower.latest() == {}
    assert follower.behind
    list(follower.follow())
    assert follower.latest()["loss"].step == 1
    assert not follower.behind


# -- not finite ---------------------------------------------------------------------------------------------------


def test_values_that_are_not_finite_are_counted_by_metric_whether_watched_or_not(
    own: Journal, follower: Follower
) -> None:
    for step in range(30):
        bad = step % 3 == 1
        log(own, step, **{"train/loss": math.nan if bad else 1.0, "speed": -math.inf if step == 9 else 2.0, "lr": 0.1})
    list(follower.follow())
    assert {name: it.nonfinite for name, it in follower.latest().items()} == {"train/loss": 10, "speed": 1, "lr": 0}


def test_huge_values_whose_sum_overflows_are_finite_all_the_same(own: Journal, follower: Follower) -> None:
    log(own, 1, a=1.7e308, b=1.7e308, c=-1.7e308)
    assert seen(follower) == []
    assert follower.nonfinite == {}


def test_a_nan_is_found_at_once_in_any_metric_and_once_the_metric_is_well_it_is_over(
    own: Journal, follower: Follower
) -> None:
    log(own, 1, speed=1.0)
    log(own, 2, speed=math.nan)
    assert seen(follower) == [("nonfinite", "speed", 2)]
    over: list[Finding] = []
    for step in range(3, 40):
        log(own, step, speed=1.0)
        over += [finding for finding in follower.follow() if finding.recovered]
    assert [(finding.rule, finding.metric) for finding in over] == [("nonfinite", "speed")]


def test_where_all_is_broken_metrics_that_no_rule_watches_cost_one_look_a_time(
    own: Journal, follower: Follower
) -> None:
    for step in range(500):
        log(own, step, **{f"layer{number}": math.nan for number in range(20)})
    assert len(seen(follower)) == 20
    assert follower.nonfinite["layer7"] == 500


# -- rules --------------------------------------------------------------------------------------------------------


def explode(own: Journal, metric: str, tags: tuple[tuple[str, str], ...] = TAGS) -> None:
    """A loss that falls, then jumps up and stays there."""
    rng = random.Random(3)
    for step in range(600):
        value = 2.0 * math.exp(-step / 100) + 0.1 + rng.gauss(0, 0.01)
        log(own, step, tags, **{metric: value if step < 500 else 1000.0})


def test_a_loss_is_watched_by_its_name_and_other_metrics_are_not(own: Journal, follower: Follower) -> None:
    explode(own, "train/loss")
    explode(own, "speed")
    found = seen(follower)
    assert {metric for _, metric, _ in found} == {"train/loss"}
    assert min(step for _, _, step in found) == 500


def test_a_metric_that_somebody_named_is_watched_like_a_loss(own: Journal, follower: Follower) -> None:
    follower.watch("speed", None)
    explode(own, "speed")
    assert {metric for _, metric, _ in seen(follower)} == {"speed"}


def test_a_pattern_alone_makes_no_loss_of_everything(own: Journal, follower: Follower) -> None:
    follower.watch("*", None)
    explode(own, "speed")
    assert seen(follower) == []
    follower.watch("spe*", (Spike(),))
    explode(own, "speed")
    assert {metric for _, metric, _ in seen(follower)} == {"speed"}


def test_rules_given_replace_those_the_metric_had_at_any_time(own: Journal, follower: Follower) -> None:
    log(own, 0, **{"train/loss": 1.0})
    list(follower.follow())
    follower.watch("train/loss", (NonFinite(),))
    explode(own, "train/loss")
    assert seen(follower) == []
    follower.watch("train/loss", (Spike(),))
    explode(own, "train/loss")
    assert {rule for rule, _, _ in seen(follower)} == {"spike"}


def test_without_default_rules_only_what_was_named_is_watched_even_for_nan(own: Journal) -> None:
    follower = Follower(own, default=False)
    explode(own, "train/loss")
    log(own, 601, **{"train/loss": math.nan})
    assert seen(follower) == []
    assert follower.nonfinite == {"train/loss": 1}
    follower.watch("train/loss", None)
    explode(own, "train/loss")
    assert {metric for _, metric, _ in seen(follower)} == {"train/loss"}
    follower.close()


def test_the_losses_of_two_models_in_one_run_are_two_curves(own: Journal, follower: Follower) -> None:
    teacher, student = ((*TAGS, ("model", name)) for name in ("teacher", "student"))
    rng = random.Random(5)
    for step in range(400):
        log(own, step, teacher, loss=0.1 + rng.gauss(0, 0.001))
        log(own, step, student, loss=50.0 / (step + 1) + 1.0 + rng.gauss(0, 0.01))
    assert seen(follower) == []


# -- events -------------------------------------------------------------------------------------------------------


def test_events_are_kept_for_whoever_posts_them_with_the_position_behind_them(own: Journal, follower: Follower) -> None:
    own.append_lines(["params,run=r,param=lr number=0.1 1"])
    position = own.append_lines(['events,run=r,kind=note title="x",level="info" 2'])
    log(own, 1, loss=1.0)
    list(follower.follow())
    assert [(event.position, event.line.split(" ")[0]) for event in follower.events] == [
        (position, "events,run=r,kind=note")
    ]
    assert follower.position == own.position


# -- ranks --------------------------------------------------------------------------------------------------------


def test_the_first_rank_finds_the_one_that_drifts_apart_in_the_journals_of_the_others(tmp_path: Path) -> None:
    journals = [opened(tmp_path, rank=rank) for rank in range(4)]
    now_s = [0.0]
    follower = Follower(journals[0])
    peers = Peers(identity(tmp_path, 0), follower.spread_of, clock=lambda: now_s[0])
    rng, found = random.Random(1), []
    for step in range(400):
        for rank, own in enumerate(journals):
            apart = 3.0 if rank == 2 and step > 200 else 0.0
            tags = identity(tmp_path, rank).tags
            log(own, step, tags, **{"train/loss": 1.0 + rng.gauss(0, 0.01) + apart, "speed": float(rank * 100)})
        if step % 50 == 0:
            now_s[0] += 20.0
            found += list(peers.follow())
    now_s[0] += 20.0
    found += list(peers.follow())
    assert {(finding.rule, finding.metric, finding.rank) for finding in found} == {("rank_spread", "train/loss", "2")}
    assert min(finding.step for finding in found) > 200
    peers.close()
    for own in journals:
        own.close()
    follower.close()


def test_ranks_that_are_dead_or_of_another_attempt_are_left_alone(tmp_path: Path) -> None:
    journals = [opened(tmp_path, rank=rank) for rank in range(3)]
    now_s = [0.0]
    peers = Peers(identity(tmp_path, 0), lambda _: None, clock=lambda: now_s[0])
    assert list(peers.follow()) == []
    assert len(peers._readers) == 3
    journals[2].close()
    now_s[0] += 60.0
    assert list(peers.follow()) == []
    assert sorted(path.name for path in peers._readers) == ["0001-host", "0002-host"]
    peers.close()
    for own in journals[:2]:
        own.close()
