"""The dashboards' curves on a real InfluxDB: each finite point of one rank, at every resolution, and nothing else."""

from __future__ import annotations

import pytest

from metriclog import dashboard_queries as queries
from tests.grafana_interpolation import Value
from tests.live import dashboard_data as data
from tests.live.dashboard_page import Page, Row
from tests.live.lines import SECOND_NS, START_NS, line, run_state
from tests.servers.api import Influx

CURVES = queries.curves_by_run("metric_drawn")
ALL = [data.PLAIN, data.RESUMED, data.FULL]


def curves(influx: Influx, metric: str = data.LOSS, run: Value = ALL, **chosen: Value) -> list[Row]:
    """What a panel of Compare gets for a metric."""
    page = Page(influx, "compare", experiment=data.EXPERIMENT, run=run, **chosen)
    return page.ask(CURVES, metric_drawn=metric)


def points_of(rows: list[Row], run: str) -> list[tuple[float, float | None]]:
    return [(row["x"], row["value"]) for row in rows if row["run"] == run]


# --- Several runs -----------------------------------------------------------------------------------------------------


def test_curves_have_the_columns_that_the_transformations_name(filled: Influx) -> None:
    rows = curves(filled)
    assert {frozenset(row) for row in rows} == {frozenset({"time", "run", "x", "value"})}
    assert {row["run"] for row in rows} == set(ALL)


def test_a_nan_step_is_no_row_so_that_it_is_not_drawn_as_zero(filled: Influx) -> None:
    assert points_of(curves(filled), data.PLAIN)[:4] == [(0, 2.0), (1, 1.0), (3, 0.5), (4, 0.4)]


def test_without_the_guard_the_nan_step_would_be_a_row_of_null(filled: Influx) -> None:
    """The reason for the guard: if this fails, `"value" = "value"` may not be needed any more."""
    page = Page(filled, "compare", run=ALL)
    unguarded = CURVES.replace(' AND "value" = "value"', "")
    assert points_of(page.ask(unguarded, metric_drawn=data.LOSS), data.PLAIN)[2] == (2, None)


def test_a_resumed_run_gives_each_row_and_the_newest_of_a_step_last(filled: Influx) -> None:
    rows = points_of(curves(filled), data.RESUMED)
    assert [x for x, _ in rows] == [0, 1, 2, 3, 2, 3, 4, 5]
    assert dict(rows) == {0: 10.0, 1: 11.0, 2: 14.0, 3: 15.0, 4: 16.0, 5: 17.0}


def test_of_several_ranks_rank_0_is_drawn(filled: Influx) -> None:
    assert points_of(curves(filled), data.FULL) == [(step, float(step)) for step in range(30)]


def test_a_metric_with_signs_in_its_name_gives_its_own_rows(filled: Influx) -> None:
    rows = curves(filled, data.ACCURACY)
    assert points_of(rows, data.PLAIN) == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75)]
    assert len(rows) == 4


def test_a_chosen_model_has_its_own_curve(filled: Influx) -> None:
    assert points_of(curves(filled, data.VALIDATION, model=["ema"]), data.PLAIN) == [(3, 2.25), (7, 0.75)]
    assert points_of(curves(filled, model=[data.MODEL]), data.RESUMED) == []


def test_a_coarser_resolution_can_be_chosen(filled: Influx) -> None:
    rows = curves(filled, run=[data.PLAIN], resolution="metrics_10")
    assert [row["x"] for row in rows] == [5, 15]


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("step", [0, 1, 3]),
        ("seconds since start", [0, 1, 3]),
        ("minutes since start", [0, 0, 0.1]),
        ("hours since start", [0, 0, 0]),
    ],
)
def test_every_x_axis_gives_numbers_that_are_rounded(filled: Influx, label: str, expected: list[float]) -> None:
    rows = curves(filled, run=[data.PLAIN], x=queries.X_AXES[label])
    assert [row["x"] for row in rows][:3] == expected


def test_the_edge_of_a_chart_is_its_highest_x(filled: Influx) -> None:
    page = Page(filled, "compare", experiment=data.EXPERIMENT, run=ALL)
    (row,) = page.ask(queries.edge_of_runs("metric_drawn"), metric_drawn=data.LOSS)
    assert (row["x"], row["edge"]) == (29, 0)


# --- One run ----------------------------------------------------------------------------------------------------------


def test_training_and_validation_are_one_answer(filled: Influx) -> None:
    rows = Page(filled, "run", run=data.PLAIN).ask(queries.QUANTITY_CURVES, quantity="loss")
    assert {row["metric"] for row in rows} == {data.LOSS, data.VALIDATION}
    assert [row["x"] for row in rows if row["metric"] == data.LOSS][:3] == [0, 1, 3]


def test_steps_with_nan_are_marked_on_any_rank_and_at_any_resolution(filled: Influx) -> None:
    page = Page(filled, "run", run=data.PLAIN)
    assert [(row["x"], row["nonfinite"]) for row in page.ask(queries.QUANTITY_MARKS, quantity="loss")] == [(2, 0)]
    coarse = Page(filled, "run", run=data.PLAIN, resolution="metrics_10")
    assert [(row["x"], row["nonfinite"]) for row in coarse.ask(queries.METRIC_MARKS, metric_drawn=data.LOSS)] == [
        (5, 0)
    ]
    broken = Page(filled, "run", run=data.FULL).ask(queries.METRIC_MARKS, metric_drawn="broken/loss")
    assert len(broken) == 60, "thirty steps on each of two ranks"


def test_a_short_run_has_its_points_and_around_them_the_band_of_ten_steps(filled: Influx) -> None:
    page = Page(filled, "run", run=data.PLAIN)
    points = page.ask(queries.METRIC_CURVE, metric_drawn=data.LOSS)
    band = page.ask(queries.METRIC_BAND, metric_drawn=data.LOSS)
    assert [(row["x"], row["mean"]) for row in points][:3] == [(0, 2.0), (1, 1.0), (3, 0.5)]
    assert [(row["x"], row["min"], row["max"]) for row in band] == [(5, 0.4, 2.0)], "steps 10 and 11 are alike"


def test_one_step_in_ten_million_can_be_seen_in_the_band(filled: Influx) -> None:
    page = Page(filled, "run", run=data.LONG)
    band = page.ask(queries.METRIC_BAND, metric_drawn=data.LOSS)
    assert len(band) == 1000, "a page draws a run of any length from two thousand points at most"
    assert [row["x"] for row in band if row["max"] == 25.0] == [data.SPIKE_STEP // 10_000 * 10_000 + 5_000]
    assert len(page.ask(queries.METRIC_CURVE, metric_drawn=data.LOSS)) == 1000


def test_learning_rate_gradients_and_throughput_are_found_by_name(filled: Influx) -> None:
    page = Page(filled, "run", run=data.FULL)
    assert {row["metric"] for row in page.ask(queries.LEARNING_RATE_CURVES)} == {data.RATE}
    assert {row["metric"] for row in page.ask(queries.GRADIENT_NORM_CURVES)} == {data.NORM}
    assert {row["metric"] for row in page.ask(queries.THROUGHPUT_BY_TIME)} == {data.THROUGHPUT}


def test_each_rank_has_its_curve_and_a_run_without_ranks_has_none(filled: Influx) -> None:
    page = Page(filled, "run", run=data.FULL)
    assert page.menus.options["rank"] == ["0", "1"]
    rows = page.ask(queries.RANKS_APART, metric_ranked=data.LOSS)
    assert [(row["rank"], row["value"]) for row in rows if row["x"] == 3] == [("0", 3.0), ("1", 103.0)]
    assert len(page.ask(queries.RANKS_TOGETHER, metric_ranked=data.LOSS)) == len(rows) == 60
    assert page.ask(queries.RANKS_ABSENT) == []
    without = Page(filled, "run", run=data.PLAIN)
    assert without.menus.options["rank"] == []
    assert without.menus.options["metric_ranked"] == []
    assert without.ask(queries.RANKS_TOGETHER, metric_ranked="") == []
    (row,) = without.ask(queries.RANKS_ABSENT)
    assert (row["x"], row["absent"]) == (0, 0)


# --- By the wall clock ------------------------------------------------------------------------------------------------


def test_a_time_without_heartbeats_is_a_hole(filled: Influx) -> None:
    rows = Page(filled, "run", run=data.FULL).ask(queries.status_by_time("run"))
    said = [row["status"] for row in rows]
    first, last = said.index("running"), len(said) - 1 - said[::-1].index("running")
    assert None in said[first:last], "it was silent for four minutes"


def test_what_no_metric_is_named_like_is_said_at_the_beginning_of_the_run(filled: Influx) -> None:
    asked = (queries.LEARNING_RATE_ABSENT, queries.GRADIENT_NORM_ABSENT)
    without = Page(filled, "run", run=data.PLAIN)
    assert [[(row["x"], row["absent"]) for row in without.ask(query)] for query in asked] == [[(0, 0)], [(0, 0)]]
    with_both = Page(filled, "run", run=data.FULL)
    assert [with_both.ask(query) for query in asked] == [[], []]


@pytest.mark.parametrize("resolution", ["(metrics)", "metrics_10"])
def test_steps_per_second_come_from_buckets_of_steps(filled: Influx, resolution: str) -> None:
    rows = Page(filled, "run", run=data.FULL, resolution=resolution).ask(queries.STEPS_PER_SECOND)
    assert [row["rate"] for row in rows] == [1.0, 1.0]


def test_a_run_that_was_resumed_from_an_older_step_goes_on_at_once(influx: Influx) -> None:
    """Steps 0 to 99 at one a second, and two minutes later 50 to 149; the highest step stands still for a while."""
    of = {"experiment": "e", "run": "r", "metric": "loss"}
    attempts = [(first, START_NS + second * SECOND_NS) for first, second in ((0, 0), (50, 220))]
    points = [
        line("metrics_10", of, f"value=1.0,min=1.0,max=1.0,step={step + 5}i", begin_ns + (step - first + 9) * SECOND_NS)
        for first, begin_ns in attempts
        for step in range(first, first + 100, 10)
    ]
    summary = line("summary", of, "last=1.0,count=200i", START_NS + 319 * SECOND_NS)
    state = run_state({"experiment": "e", "run": "r"}, "finished", 150, START_NS + 320 * SECOND_NS)
    influx.write("\n".join([*points, summary, state]))
    rows = Page(influx, "run").ask(queries.STEPS_PER_SECOND)
    assert [row["rate"] for row in rows] == [1.0] * 18
    times = [(row["time"] - START_NS // 1_000_000) // 1000 for row in rows]
    assert not [time for time in times if 99 < time < 239], "nothing while it was away"


def test_annotations_are_of_their_kinds(filled: Influx) -> None:
    page = Page(filled, "run", run=data.FULL)
    kinds = {
        mark["name"]: {row["tags"] for row in page.ask(mark["target"]["query"])}
        for mark in page.dashboard["annotations"]["list"]
    }
    assert kinds == {
        "Problems": {"nonfinite", "divergence"},
        "Checkpoints": {"checkpoint", "note"},
        "Start, resume, finish": {"start", "resume"},
    }


# --- Delivery ---------------------------------------------------------------------------------------------------------


def test_each_process_has_one_row_and_its_last_report_keeps_its_time(filled: Influx) -> None:
    page = Page(filled, "delivery")
    states = {row["rank"]: row for row in page.ask(queries.DELIVERY_STATE)}
    reports = {row["rank"]: row for row in page.ask(queries.DELIVERY_REPORT)}
    assert states.keys() == reports.keys() == {"0", "1"}
    assert (states["1"]["delivered"], states["1"]["pending"], states["1"]["dropped"]) == (3150, 0, 2)
    assert reports["1"]["time"] == START_NS // 1_000_000 + 315_000
    shared = {"experiment", "run", "host", "rank"}
    assert shared == (states["0"].keys() & reports["0"].keys()) - {"time"}, "what the rows are merged by"


def test_totals_are_over_what_each_process_last_reported(filled: Influx) -> None:
    page = Page(filled, "delivery")
    (delivered,) = page.ask(queries.delivery_total("delivered"))
    (lag,) = page.ask(queries.delivery_total("lag_s", "max"))
    assert (delivered["delivered"], lag["lag_s"]) == (6300, 31.5)


def test_the_rate_of_delivery_is_a_series_a_process(filled: Influx) -> None:
    query = queries.delivery_growth("delivered", 'non_negative_derivative("count", 1s)')
    rows = Page(filled, "delivery").ask(query)
    assert {row["rank"] for row in rows} == {"0", "1"}
    assert all(row["delivered"] == pytest.approx(10.0, rel=0.1) for row in rows)
