"""The detector: which rules a metric has, what a finding says, steps and ranks, bounds. The rules: `test_rules`."""

from __future__ import annotations

import math
import pickle
import sys
from pathlib import Path

import pytest

from metriclog.divergence import (
    Detector,
    Explosion,
    Finding,
    GradientExplosion,
    NonFinite,
    Plateau,
    RankSpread,
    Rule,
    SlowDivergence,
    Spike,
)
from metriclog.errors import UsageError
from metriclog.metric_names import kind_of
from tests.curves import critical, falling, flat, found_by, noise, turns

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from detection import judge, line, summary
from detection_hard import corpus

NAN, INF = math.nan, math.inf

# -- which rules a metric has ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names, kind",
    [
        ("loss train/loss eval_loss nll Loss/val train_loss_epoch trainLoss loss_value loss_1 val/nll lm_loss", "loss"),
        ("cross_entropy train/cross_entropy_loss CrossEntropyLoss log_loss total_loss losses/total train.loss", "loss"),
        ("bits/bpb masked_lm_loss Train-Loss loss/train/mean", "loss"),
        ("lossless loss_scale weight_loss_ratio loss_weight loss_std perplexity ppl log_likelihood elbo", "other"),
        ("value_loss losses/policy_loss loss/value d_loss lossG generator_loss kl_loss vf_loss critic/loss", "other"),
        ("accuracy eval/acc reward rollout/ep_rew_mean lr gloss lossy throughput norm gradient", "other"),
        ("grad_norm gradient_norm grad/norm train/grad_norm gradNorm gnorm grad_norm/layer1", "gradient_norm"),
        ("grad_norm_clip max_grad_norm weight_norm grad_scale", "other"),
    ],
)
def test_a_name_tells_what_a_metric_is(names: str, kind: str) -> None:
    assert {name: kind_of(name) for name in names.split()} == dict.fromkeys(names.split(), kind)


def test_losses_and_gradient_norms_are_watched_by_default_and_others_only_for_what_is_not_finite() -> None:
    detector = Detector()
    assert [detector.watches(name) for name in ("train/loss", "grad_norm", "accuracy")] == [True, True, False]
    assert not Detector(default=False).watches("train/loss")
    assert [finding.rule for finding in detector.add("accuracy", "", 3, NAN)] == ["nonfinite"]
    assert [finding.rule for finding in Detector(default=False).add("loss", "", 3, NAN)] == ["nonfinite"]


@pytest.mark.parametrize("metric", ["train/loss", "actor_loss", "d_loss", "loss/kl", "val/perplexity", "nll", "errD"])
def test_what_is_like_a_loss_and_not_finite_is_critical_at_once(metric: str) -> None:
    assert [finding.level for finding in found_by([1.0, NAN], metric=metric)] == ["critical"]


@pytest.mark.parametrize("metric", ["eval/f1", "explained_variance", "accuracy", "loss_scale", "reward", "lr"])
def test_a_score_that_is_not_a_number_is_a_warning(metric: str) -> None:
    for default in (True, False):
        detector = Detector(default=default)
        findings = [finding for step in range(20) for finding in detector.add(metric, "", step, NAN)]
        assert {finding.level for finding in findings} == {"warning"}


def test_an_accuracy_or_a_reward_may_do_as_it_likes() -> None:
    values = [*falling(500), *flat(300, 50), *flat(300, -50)]
    for metric in ("eval/accuracy", "rollout/ep_rew_mean", "value_loss"):
        assert found_by(values, metric=metric) == []


def test_watch_replaces_the_rules_of_a_metric_and_of_no_other() -> None:
    detector = Detector()
    detector.watch("train/loss", Plateau(patience=100))
    leap = [*falling(300), *flat(100, 500)]
    told = [finding.rule for step, value in enumerate(leap) for finding in detector.add("train/loss", "", step, value)]
    assert "explosion" not in told
    told = [finding.rule for step, value in enumerate(leap) for finding in detector.add("eval/loss", "", step, value)]
    assert "explosion" in told


def test_watch_takes_patterns_and_the_last_one_that_fits_wins() -> None:
    detector = Detector()
    detector.watch("gan/*", Spike())
    detector.watch("gan/lr")
    assert [detector.watches(name) for name in ("gan/d", "gan/lr", "d")] == [True, False, False]
    detector.watch("gan/*", Spike())
    assert detector.watches("gan/lr")


def test_a_name_with_brackets_is_watched_as_it_stands() -> None:
    detector = Detector()
    detector.watch("err[0]", Spike())
    assert detector.watches("err[0]")


def test_watch_without_rules_leaves_what_is_not_finite() -> None:
    detector = Detector()
    detector.watch("train/loss")
    assert not detector.watches("train/loss")
    assert [finding.rule for finding in detector.add("train/loss", "", 0, INF)] == ["nonfinite"]


def test_what_went_on_when_the_rules_change_is_over() -> None:
    detector = Detector()
    detector.add("loss", "", 0, NAN)
    detector.watch("loss", Spike())
    assert turns(detector.add("loss", "", 1, 0.5)) == [("nonfinite", "over")]


@pytest.mark.parametrize(
    "rule, parameters",
    [
        (Spike, {"sigmas": 0}),
        (Spike, {"window": 3}),
        (Spike, {"warmup": 64.5}),
        (Spike, {"sigmas": NAN}),
        (Spike, {"persist": True}),
        (Explosion, {"ratio": 1}),
        (Explosion, {"confirm": 0}),
        (SlowDivergence, {"fires": 0.2}),
        (SlowDivergence, {"clears": -0.1}),
        (Plateau, {"patience": 0}),
        (Plateau, {"min_delta": "1%"}),
        (GradientExplosion, {"ratio": 2}),
        (NonFinite, {"after": 0}),
        (RankSpread, {"min_ranks": 2}),
    ],
)
def test_nonsense_is_refused_by_the_rule_and_the_parameter(rule: type, parameters: dict[str, object]) -> None:
    (name,) = parameters
    with pytest.raises(UsageError, match=rf"{rule.__name__}\({name}="):
        rule(**parameters)


@pytest.mark.parametrize("metric, rules", [("", ()), ("loss", ("spike",)), ("loss", (Spike(), Spike(sigmas=8)))])
def test_watch_says_what_is_no_rule(metric: str, rules: tuple[Rule, ...]) -> None:
    with pytest.raises(UsageError, match="watch"):
        Detector().watch(metric, *rules)


# -- what a finding says -----------------------------------------------------------------------------------------


def test_a_finding_names_metric_rank_step_value_baseline_window_and_what_to_do() -> None:
    detector = Detector()
    for step, value in enumerate(flat(200)):
        assert detector.add("train/loss", "3", 10 * step, value) == []
    (finding,) = detector.add("train/loss", "3", 2000, 4.0)
    assert (finding.rule, finding.metric, finding.rank, finding.level) == ("spike", "train/loss", "3", "warning")
    assert (finding.step, finding.value, finding.window, finding.recovered) == (2000, 4.0, 128, False)
    assert finding.baseline == pytest.approx(1, abs=0.01)
    assert "4 after a median of" in finding.advice and "\n" not in finding.advice


def test_each_rule_gives_advice_with_numbers_on_one_line() -> None:
    curves = [
        found_by([*falling(400), *line_up(), *flat(600, 900)]),
        found_by([*flat(700), NAN]),
        found_by([*flat(400), *flat(100, 40)], metric="grad_norm"),
    ]
    advices = {finding.rule: finding.advice for findings in curves for finding in findings}
    assert advices.keys() == {
        *("nonfinite", "spike", "explosion", "slow_divergence", "plateau", "gradient_explosion"),
    }
    for advice in advices.values():
        assert any(character.isdigit() for character in advice) and "\n" not in advice and len(advice) < 250


def line_up() -> list[float]:
    """Slowly back to the start and beyond."""
    return [0.4 + 4 * index / 400 for index in range(400)]


# -- steps -------------------------------------------------------------------------------------------------------


def test_steps_may_repeat_be_sparse_and_go_back_a_little() -> None:
    values = falling(600)
    sparse = [step * 500 for step in range(600)]
    back = [*range(400), *range(300, 500)]
    assert found_by(values, Spike(), Explosion(), SlowDivergence(), steps=sparse) == []
    assert found_by(values, Spike(), Explosion(), SlowDivergence(), steps=back) == []
    assert found_by(values, Spike(), Explosion(), SlowDivergence(), steps=[7] * 600) == []


def test_another_fit_from_step_0_is_another_curve() -> None:
    values = falling(400) * 4
    assert found_by(values, Spike(), Explosion(), SlowDivergence(), steps=[*range(400)] * 4) == []


def test_going_back_far_ends_what_went_on() -> None:
    steps = [*range(300), 0, 1]
    findings = found_by([*falling(250), *flat(50, 500), 2.3, 2.2], steps=steps)
    assert {rule for rule, level in turns(findings) if level == "over"} == {"explosion", "spike", "slow_divergence"}
    assert "begins anew" in findings[-1].advice


def test_huge_tiny_and_equal_values_break_nothing() -> None:
    extremes = [0.0, 5e-324, 1e308, -1e308, 1.7e308, -5e-324]
    for metric in ("loss", "grad_norm"):
        found_by([extremes[index * 7 % 6] for index in range(1000)], metric=metric)
        assert found_by([0.0] * 450, metric=metric) == []
        assert found_by([3.0] * 450, metric=metric) == []
        found_by([*[1.0] * 64, *[0.0] * 200, *[5.0] * 50], metric=metric)


# -- ranks -------------------------------------------------------------------------------------------------------


def by_rank(apart: float, ranks: int = 4, steps: int = 200) -> list[Finding]:
    """Ranks with noise; from step 100 on the last one is that many times as high."""
    detector = Detector()
    detector.watch("train/loss", RankSpread())
    errors = [noise(steps, 0.02, seed=rank) for rank in range(ranks)]
    return [
        finding
        for step in range(steps)
        for rank in range(ranks)
        for finding in detector.add(
            "train/loss",
            str(rank),
            step,
            (apart if step >= 100 and rank == ranks - 1 else 1.0) + errors[rank][step],
        )
    ]


def test_not_a_number_on_one_rank_is_said_of_that_rank_alone() -> None:
    detector = Detector()
    findings = [
        finding
        for step in range(100)
        for rank in ("0", "1", "2")
        for finding in detector.add("loss", rank, step, NAN if rank == "1" and step == 60 else 1.0 + step % 3 / 50)
    ]
    assert [(finding.rule, finding.rank, finding.step, finding.level) for finding in critical(findings)] == [
        ("nonfinite", "1", 60, "critical")
    ]


def test_a_rank_that_stands_apart_again_and_again_is_a_warning() -> None:
    findings = by_rank(1.5)
    assert turns(findings) == [("rank_spread", "warning")]
    assert {finding.rank for finding in findings} == {"3"}
    assert 100 < findings[0].step < 120 and findings[0].baseline == pytest.approx(1, abs=0.05)


def test_a_rank_that_does_not_train_with_the_others_is_critical_after_long() -> None:
    assert critical(by_rank(6.0)) == []
    (first, *_) = critical(by_rank(6.0, steps=800))
    assert (first.rule, first.rank) == ("rank_spread", "3") and 590 < first.step < 660
    assert critical(by_rank(2.0, steps=800)) == []


def test_ranks_with_noise_of_their_own_are_no_finding_and_two_ranks_cannot_be_compared() -> None:
    assert by_rank(1.0) == []
    assert by_rank(1.5, ranks=2) == []


def test_a_rank_that_comes_back_is_said_to_be_back() -> None:
    detector = Detector()
    detector.watch("train/loss", RankSpread())
    findings = []
    for step in range(300):
        for rank in range(4):
            value = 1 + (rank + 1) * step % 5 / 100 + (2 if rank == 2 and 100 <= step < 150 else 0)
            findings += detector.add("train/loss", str(rank), step, value)
    assert turns(findings) == [("rank_spread", "warning"), ("rank_spread", "over")]


def test_ranks_may_report_late_and_out_of_step() -> None:
    detector = Detector()
    detector.watch("train/loss", RankSpread())
    findings = []
    for block in range(20):
        for rank in range(4):  # each rank hands in ten steps at once
            for step in range(10 * block, 10 * block + 10):
                findings += detector.add("train/loss", str(rank), step, 3.0 if rank == 1 else 1 + step % 3 / 100)
    assert turns(findings) == [("rank_spread", "warning")]


# -- bounds, and how good they are -------------------------------------------------------------------------------


def test_memory_does_not_grow_with_a_curve() -> None:
    detector = Detector()
    sizes = []
    for step, value in enumerate([*falling(20_000), *flat(20_000, 50)]):
        for metric, rank in (("loss", "0"), ("loss", "1"), ("loss", "2"), ("grad_norm", "")):
            detector.add(metric, rank, step, abs(value) + 0.01)
        if step in (2_000, 10_000, 39_000):
            sizes.append(len(pickle.dumps(detector)))
    assert max(sizes) < 2 * sizes[0] < 100_000  # a state that goes on holds its words


def test_ranks_that_never_report_together_are_not_waited_for_without_end() -> None:
    detector = Detector()
    for step in range(5_000):
        detector.add("loss", str(step % 2), step, 1.0)
    assert len(pickle.dumps(detector)) < 50_000


def test_on_curves_of_known_truth_nothing_critical_is_false_and_every_divergence_is_found() -> None:
    verdicts = [judge(curve) for curve in corpus(0) if curve.length <= 8_000]
    assert len(verdicts) >= 50
    text, met = summary(verdicts)
    failed = [line(verdict) for verdict in verdicts if verdict.false_critical or verdict.missed]
    assert met, (text, failed)
