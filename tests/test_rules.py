"""Each rule by itself: what it sees, what it lets pass, when it is over. The detector: `test_divergence`."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metriclog.divergence import Explosion, GradientExplosion, NonFinite, Plateau, Rule, SlowDivergence, Spike
from tests.curves import critical, falling, flat, found_by, line, noise, turns

NAN, INF = math.nan, math.inf

# -- not finite --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value, kind", [(NAN, "NaN"), (INF, "+Inf"), (-INF, "-Inf")])
def test_a_value_that_is_not_finite_is_critical_at_once_and_said_by_its_kind(value: float, kind: str) -> None:
    (finding,) = found_by([0.5, 0.4, value])
    assert (finding.rule, finding.level, finding.step) == ("nonfinite", "critical", 2)
    assert finding.advice.startswith(f"{kind}, 1 in a row")


def test_finite_values_end_it_after_some() -> None:
    findings = found_by([NAN, NAN, *[0.5] * 16])
    assert turns(findings) == [("nonfinite", "critical"), ("nonfinite", "over")]
    assert findings[-1].step == 17 and findings[-1].value == 0.5
    assert turns(found_by([NAN, *[0.5] * 15])) == [("nonfinite", "critical")]


def test_the_other_rules_do_not_see_what_is_not_finite() -> None:
    values = falling(600)
    values[100:300:7] = [INF] * len(values[100:300:7])
    assert {finding.rule for finding in found_by(values)} == {"nonfinite"}


def test_a_loss_scaler_that_skips_steps_is_a_warning_and_an_overflow_that_stays_is_critical() -> None:
    norms = [*[INF] * 12, *flat(500)]
    norms[300] = INF
    assert critical(found_by(norms, metric="grad_norm")) == []
    assert [finding.step for finding in critical(found_by([*flat(100), *[NAN] * 3], metric="grad_norm"))] == [102]
    assert critical(found_by([NAN] * 32, metric="grad_norm"))[0].step == 31


def test_non_finite_takes_parameters() -> None:
    assert turns(found_by([1.0, NAN, NAN, 1.0, 1.0], NonFinite(after=2, recover=2))) == [
        ("nonfinite", "warning"),
        ("nonfinite", "critical"),
        ("nonfinite", "over"),
    ]


# -- spike -------------------------------------------------------------------------------------------------------


def test_a_spike_is_a_warning_at_once_and_over_when_the_loss_is_back() -> None:
    spike = [0.6 + 3 * math.exp(-index / 15) for index in range(80)]
    findings = found_by([*falling(600), *spike, *flat(100, 0.5)], Spike())
    assert turns(findings) == [("spike", "warning"), ("spike", "over")]
    assert findings[0].step == 600


def test_one_batch_that_is_harder_than_others_is_none_but_a_second_one_at_once_is() -> None:
    quiet = flat(200)
    assert found_by([*quiet, 1.19, *quiet], Spike()) == []
    assert turns(found_by([*quiet, 1.19, 1.19], Spike())) == [("spike", "warning")]
    assert turns(found_by([*quiet, 1.5], Spike())) == [("spike", "warning")]


def test_before_64_values_there_is_no_spike() -> None:
    assert found_by([*flat(60), 9.0, 9.0], Spike()) == []


def test_a_spike_that_stays_is_critical() -> None:
    findings = found_by([*falling(600), *flat(500, 1.9)], Spike())
    assert turns(findings) == [("spike", "warning"), ("spike", "critical")]
    assert 600 < critical(findings)[0].step < 1000


def test_a_level_that_shifts_a_little_is_the_new_level() -> None:
    assert turns(found_by([*falling(600), *flat(800, 0.9)], Spike())) == [("spike", "warning"), ("spike", "over")]


def test_a_long_upper_tail_makes_few_spikes() -> None:
    rng = random.Random(3)
    findings = found_by([rng.lognormvariate(0, 1) for _ in range(5_000)], Spike())
    assert len([turn for turn in turns(findings) if turn[1] == "warning"]) <= 10


def test_a_loss_that_does_not_come_back_after_a_spike_is_critical_in_bounded_time_and_never_recovered() -> None:
    fall = [2.5 + 8 * (1 + index / 20) ** -0.7 + error for index, error in enumerate(noise(20_000, 0.05))]
    stays = [7.2 + 2.8 * math.exp(-index / 40) + error for index, error in enumerate(noise(4_000, 0.05))]
    findings = found_by([*fall, *stays], Spike())
    assert turns(findings)[-2:] == [("spike", "warning"), ("spike", "critical")]
    assert critical(findings)[0].step < 22_000


def test_values_that_stick_out_of_a_loss_near_zero_again_and_again_are_few_warnings() -> None:
    rng = random.Random(5)
    values = [
        value if rng.random() > 0.01 else math.exp(rng.uniform(-8, 0)) for value in [*falling(300), *[0.0] * 5_000]
    ]
    assert len([turn for turn in turns(found_by(values, Spike())) if turn[1] == "warning"]) <= 12


# -- explosion ---------------------------------------------------------------------------------------------------


def test_ten_times_the_largest_loss_is_a_warning_at_the_third_value_and_critical_if_it_stays() -> None:
    findings = found_by([*falling(300), *flat(20, 40)], Explosion())
    assert turns(findings) == [("explosion", "warning"), ("explosion", "critical")]
    assert [findings[0].step, critical(findings)[0].step] == [302, 315]
    assert found_by([*falling(300), *flat(100, 5)], Explosion()) == []


def test_a_thousand_times_the_largest_loss_or_growth_without_end_is_critical_within_some_values() -> None:
    assert critical(found_by([*falling(300), *flat(5, 4_000)], Explosion()))[0].step == 302
    grows = [math.exp(0.5 * index) for index in range(60)]
    assert critical(found_by([*falling(300), *grows], Explosion()))[0].step < 320


@pytest.mark.parametrize("height, tau", [(30, 8), (100, 5), (300, 3)])
def test_a_spike_that_decays_within_some_values_is_no_critical_explosion(height: float, tau: float) -> None:
    spike = [0.4 + height * math.exp(-index / tau) for index in range(60)]
    assert critical(found_by([*falling(600), *spike, *flat(300, 0.4)])) == []


def test_a_run_of_some_epochs_that_explodes_is_critical_and_one_that_jumps_for_an_epoch_is_not() -> None:
    assert critical(found_by([*falling(12), *flat(14, 60)]))
    assert critical(found_by([*falling(8), *[3 * 2.0**index for index in range(1, 14)]]))
    assert critical(found_by([*falling(12), 60.0, *flat(40, 1.2), 40.0, 50.0, *flat(20, 1.1)])) == []


def test_chaos_in_the_first_steps_that_decays_is_not_critical() -> None:
    chaos = [2.3 + 40 * math.exp(-index / 12) for index in range(80)]
    assert critical(found_by([2.3, 2.2, 2.3, 2.2, 2.3, *chaos, *falling(400)])) == []


def test_a_run_that_only_grows_from_its_first_step_is_critical() -> None:
    assert critical(found_by([2.3 * (1 + 30 * index / 2_000) + error for index, error in enumerate(noise(2_000, 0.1))]))
    assert critical(found_by([2.0 * 1.2 ** min(index, 40) for index in range(60)]))


def test_single_values_far_out_are_none() -> None:
    values = flat(600)
    values[100::40] = [500.0] * len(values[100::40])
    assert found_by(values, Explosion()) == []


def test_a_curve_that_grows_without_end_does_not_hide_itself() -> None:
    for rate in (0.002, 0.02, 0.2):
        assert critical(found_by([math.exp(rate * index) for index in range(3_400)], Explosion())), rate


def test_a_loss_that_is_lost_before_the_warm_up_is_over_is_found() -> None:
    values = [2.3 * 1.5 ** min(index, 30) for index in range(80)]
    assert critical(found_by(values, Explosion()))[0].step < 20


def test_an_explosion_below_zero_and_near_zero_is_measured_by_absolute_values() -> None:
    below = [-100 - value for value in flat(300)]
    assert found_by([*below, *flat(50, 500)], Explosion()) == []
    assert critical(found_by([*below, *flat(50, 2_000)], Explosion()))
    assert found_by([*noise(300, 1e-9), *noise(300, 2e-9)], Explosion()) == []


def test_an_explosion_that_comes_down_is_over() -> None:
    assert turns(found_by([*falling(300), *flat(20, 40), *flat(40)], Explosion())) == [
        ("explosion", "warning"),
        ("explosion", "critical"),
        ("explosion", "over"),
    ]


# -- slow divergence ---------------------------------------------------------------------------------------------


def test_what_is_given_back_slowly_is_first_a_warning_and_then_critical() -> None:
    findings = found_by([*falling(800), *line(800, 0.4, 3.0)], SlowDivergence())
    assert turns(findings) == [("slow_divergence", "warning"), ("slow_divergence", "critical")]
    assert 1200 < findings[0].step < critical(findings)[0].step < 1500
    assert "of the improvement" in findings[0].advice


def test_a_loss_below_zero_that_comes_back_up_is_found_as_well() -> None:
    values = [value - 5 for value in [*falling(800), *line(800, 0.4, 3.0)]]
    assert critical(found_by(values, SlowDivergence()))


def test_a_fine_tuning_that_won_little_and_then_climbs_to_many_times_its_start_is_found() -> None:
    assert critical(found_by([*flat(800, 0.33), *line(800, 0.33, 3.3)], SlowDivergence()))


def test_a_loss_that_swings_around_a_level_is_not_critical() -> None:
    swings = [1 + 0.4 * math.sin(index / 60) + error for index, error in enumerate(noise(5_000, 0.1))]
    assert critical(found_by(swings)) == []


def test_it_is_over_below_30_percent_and_not_before() -> None:
    back = [*falling(800), *line(800, 0.4, 3.0), *line(300, 3.0, 1.2)]
    assert ("slow_divergence", "over") not in turns(found_by([*back, *flat(300, 1.2)], SlowDivergence()))
    assert turns(found_by([*back, *flat(300, 0.5)], SlowDivergence()))[-1] == ("slow_divergence", "over")


def test_noise_and_curves_that_never_improved_give_nothing_back() -> None:
    assert found_by(flat(5_000, size=0.3), SlowDivergence()) == []
    assert found_by([*flat(500), *line(2_000, 1, 4)], SlowDivergence()) == []
    assert found_by(noise(5_000, 1.0), SlowDivergence()) == []


def test_a_restart_of_the_learning_rate_is_at_most_a_warning() -> None:
    cycle = [0.3 + 1.8 * math.exp(-index / 120) + error for index, error in enumerate(noise(800, 0.02))]
    findings = found_by([*falling(800), *cycle, *cycle])
    assert critical(findings) == []


def test_a_bump_while_the_learning_rate_warms_up_is_nothing() -> None:
    values = [value + 2 * math.exp(-(((index - 60) / 25) ** 2)) for index, value in enumerate(falling(1_000, floor=1))]
    bump = [max(value, 2.3) if index < 60 else value for index, value in enumerate(values)]
    assert critical(found_by(bump)) == []


def test_a_collapse_of_a_run_of_some_epochs_is_critical() -> None:
    epochs = [0.3 + 2 * math.exp(-index / 5) + error for index, error in enumerate(noise(36, 0.01))]
    assert critical(found_by([*epochs, *flat(72, 2.31, 0.01)]))


# -- plateau -----------------------------------------------------------------------------------------------------


def test_a_plateau_is_a_warning_and_over_with_a_new_best() -> None:
    findings = found_by([*falling(300), *flat(900, 0.6), *flat(100, 0.1)], Plateau())
    assert turns(findings) == [("plateau", "warning"), ("plateau", "over")]
    assert 700 < findings[0].step < 1_200


def test_while_the_loss_falls_there_is_no_plateau() -> None:
    assert found_by(line(5_000, 5, 1), Plateau()) == []


def test_a_loss_that_still_falls_near_zero_is_no_plateau() -> None:
    values = [2.3 * 0.998**index * (1 + error) for index, error in enumerate(noise(4_000, 0.05))]
    assert found_by(values, Plateau()) == []


# -- gradient norms ----------------------------------------------------------------------------------------------


def test_gradients_that_stay_four_or_forty_times_as_large_are_a_warning() -> None:
    for times in (4, 40):
        findings = found_by([*flat(400), *flat(3_000, times)], GradientExplosion())
        assert turns(findings) == [("gradient_explosion", "warning")]
        assert findings[0].step < 410 and findings[0].baseline == pytest.approx(1, abs=0.05)


def test_gradients_thousands_of_times_as_large_are_critical_within_some_blocks() -> None:
    findings = found_by([*flat(400), *flat(200, 40_000)], GradientExplosion())
    assert turns(findings) == [("gradient_explosion", "warning"), ("gradient_explosion", "critical")]
    assert critical(findings)[0].step < 440


def test_a_leap_of_the_gradients_to_hundreds_that_stays_is_critical_later() -> None:
    assert critical(found_by([*flat(400), *flat(100, 400)], GradientExplosion())) == []
    assert critical(found_by([*flat(400), *flat(400, 400)], GradientExplosion()))


@pytest.mark.parametrize("rate", [0.003, 0.02, 0.3])
def test_gradients_that_grow_without_bound_are_critical(rate: float) -> None:
    growth = [math.exp(rate * index) for index in range(int(30 / rate))]
    assert critical(found_by(growth, GradientExplosion()))
    findings = found_by([*flat(400), *growth], GradientExplosion())
    assert 400 + math.log(1_000) / rate < critical(findings)[0].step < 440 + math.log(5_000) / rate


def test_the_baseline_of_gradients_is_frozen_so_that_a_slow_drift_is_found() -> None:
    drift = [math.exp(index / 4_000) for index in range(16_000)]
    assert turns(found_by(drift, GradientExplosion())) == [("gradient_explosion", "warning")]


@pytest.mark.parametrize("warmup", [50, 100, 250])
def test_gradients_that_rise_while_the_learning_rate_warms_up_are_not_critical(warmup: int) -> None:
    rise = [math.exp(-7 * max(0.0, 1 - index / warmup)) for index in range(1_500)]
    assert (
        critical(
            found_by(
                [value + error * value for value, error in zip(rise, noise(1_500, 0.1), strict=True)],
                GradientExplosion(),
            )
        )
        == []
    )


@pytest.mark.parametrize("height, tau", [(100, 30), (1_500, 30), (20_000, 10)])
def test_gradients_that_fall_again_after_a_spike_are_not_critical(height: float, tau: float) -> None:
    spike = [1 + height * math.exp(-index / tau) for index in range(400)]
    findings = found_by([*flat(600), *spike, *flat(600)], GradientExplosion())
    assert critical(findings) == [] and turns(findings)[-1] == ("gradient_explosion", "over")


@pytest.mark.parametrize("width", [40, 400])
def test_a_phase_in_which_gradients_are_large_for_long_is_not_critical(width: int) -> None:
    phase = [1 + 500 * math.exp(-(((index - 2_000) / width) ** 2)) for index in range(4_000)]
    assert critical(found_by(phase, GradientExplosion())) == []


def test_single_gradients_far_out_are_nothing_and_an_end_is_said() -> None:
    values = flat(1_000)
    values[100::20] = [300.0] * len(values[100::20])
    assert found_by(values, GradientExplosion()) == []
    told = turns(found_by([*flat(400), *flat(50, 40), *flat(200)], GradientExplosion()))
    assert told[-1] == ("gradient_explosion", "over")


def test_gradients_of_zero_are_no_baseline() -> None:
    assert critical(found_by([*[0.0] * 100, *flat(400), *flat(200, 40_000)], GradientExplosion()))


# -- scale -------------------------------------------------------------------------------------------------------

CURVES = {
    "good": falling(700),
    "spike": [*falling(400), *flat(20, 3), *flat(280, 0.4)],
    "slow": [*falling(400), *line(400, 0.4, 4)],
    "explodes": [*falling(300), *flat(100, 500)],
    "flat": flat(700),
}


@pytest.mark.parametrize("name", CURVES)
@given(exponent=st.integers(-30, 30), rule=st.sampled_from([Spike(), Explosion(), SlowDivergence(), Plateau()]))
@settings(max_examples=20, deadline=None)
def test_a_loss_times_a_constant_gives_the_same_findings(name: str, exponent: int, rule: Rule) -> None:
    scale = 2.0**exponent  # exact, so that not even a rounding differs
    plain, scaled = found_by(CURVES[name], rule), found_by([scale * value for value in CURVES[name]], rule)
    assert [(finding.step, finding.level, finding.recovered) for finding in plain] == [
        (finding.step, finding.level, finding.recovered) for finding in scaled
    ]


@given(seed=st.integers(0, 10**6), offset=st.floats(-20, 20), size=st.floats(0.001, 1))
@settings(max_examples=40, deadline=None)
def test_noise_around_any_level_is_never_critical(seed: int, offset: float, size: float) -> None:
    assert critical(found_by([offset + error for error in noise(600, size, seed)])) == []
