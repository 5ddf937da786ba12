"""Every query of every dashboard on a real InfluxDB, after what Grafana does to it: which columns, how many rows.

Here: that each of them answers, the menus, and the tables. The curves are in test_dashboard_curves.
"""

from __future__ import annotations

import pytest

from metriclog import dashboard_queries as queries
from tests.grafana_interpolation import Value
from tests.live import dashboard_data as data
from tests.live.dashboard_page import Page, Row
from tests.live.lines import SECOND_NS, START_NS, run_state
from tests.servers.api import Influx

DAY_MS = 86_400_000

MAY_BE_EMPTY = {
    # The state of a run is asked for twice, as one that is silent and as one that is not, and found once.
    "Run ${run}:state",
    # Of a metric either high or low values are the good ones: both that are drawn here are losses.
    "$metric_drawn:higher",
    # These find something where there is nothing to show.
    "Learning rate:absent",
    "Gradient norm:absent",
    "Over the ranks: $metric_ranked:absent",
    "On each rank: $metric_ranked:absent",
}


def scoped(metric: str) -> dict[str, Value]:
    """The metric for each panel that is of one."""
    return dict.fromkeys(("metric_drawn", "metric_large", "metric_ranked"), metric)


every_page = pytest.mark.parametrize("name", ["runs", "compare", "run", "delivery"])


# --- Each query answers -----------------------------------------------------------------------------------------------


@every_page
def test_every_query_finds_something_in_a_filled_bucket(filled: Influx, name: str) -> None:
    one_run = {"run": data.FULL} if name == "run" else {}
    page = Page(filled, name, experiment=data.EXPERIMENT, baseline=data.FULL, **one_run)
    for key, query in page.queries():
        drawn = ((data.LOSS, "loss"), ("broken/loss", "broken/loss"))  # one is all finite, the other all NaN
        found = [page.ask(query, quantity=quantity, **scoped(metric)) for metric, quantity in drawn]
        assert any(found) or key in MAY_BE_EMPTY, key


@every_page
def test_every_menu_of_a_filled_bucket_offers_something(filled: Influx, name: str) -> None:
    page = Page(filled, name, **({"run": data.FULL} if name == "run" else {}))
    assert [variable for variable, offered in page.menus.options.items() if not offered] == []


@every_page
def test_an_empty_bucket_is_no_error(influx: Influx, name: str) -> None:
    """With empty menus the variables are empty: All of no values is the pattern `()`."""
    page = Page(influx, name)
    for key, query in page.queries():
        assert page.ask(query, quantity="", **scoped("")) == [], key


@every_page
def test_a_time_range_without_points_is_empty(filled: Influx, name: str) -> None:
    """Menus may know more: the server looks for names a whole shard at a time."""
    long_ago = (data.FROM_MS - 60 * DAY_MS, data.FROM_MS - 50 * DAY_MS)
    page = Page(filled, name, long_ago, experiment=data.EXPERIMENT, run=[data.PLAIN])
    for key, query in page.queries():
        assert page.ask(query, quantity="loss", **scoped(data.LOSS)) == [], key


@every_page
def test_names_of_all_kinds_reach_the_server_whole(filled: Influx, name: str) -> None:
    page = Page(filled, name, experiment=data.EXPERIMENT)
    assert data.FOREIGN not in page.menus.options["run"]
    assert set(page.menus.options["experiment"]) == {data.EXPERIMENT, data.OTHER_EXPERIMENT}


# --- Menus ------------------------------------------------------------------------------------------------------------


def test_the_newest_run_comes_first(filled: Influx) -> None:
    offered = Page(filled, "run").menus.options["run"]
    assert offered[:3] == [data.LIVE, data.LONG, data.FULL]
    assert Page(filled, "run").menus.chosen("run") == [data.LIVE]


def test_all_runs_of_the_menus_are_those_that_the_filters_leave(filled: Influx) -> None:
    def found(**chosen: Value) -> set[str]:
        return set(Page(filled, "runs", **chosen).menus.chosen("run"))

    everything = {data.PLAIN, data.RESUMED, data.LIVE, data.FAILED, data.FULL, data.LONG}
    assert found(experiment=data.EXPERIMENT) == everything, (
        "also those without a model, and one that has logged nothing"
    )
    assert found() == everything | {data.FOREIGN}
    assert found(model=[data.MODEL]) == {data.PLAIN, data.FULL}
    assert found(dataset=["mnist"]) == {data.FAILED}
    assert found(model=["cnn"], dataset=[data.DATASET]) == set()
    assert found(status=["failed"]) == {data.FAILED}
    assert found(status=["running", "failed"]) == {data.FAILED, data.LIVE, data.FULL}
    assert found(status=["finished"], model=[data.MODEL, "cnn"]) == {data.PLAIN}


def test_at_most_twenty_runs_are_drawn_the_newest_of_those_chosen(influx: Influx) -> None:
    points = [
        run_state({"experiment": "e", "run": f"run-{i:02d}"}, "finished", 1, START_NS + i * SECOND_NS)
        for i in range(25)
    ]
    influx.write("\n".join(points))
    assert Page(influx, "compare").menus.chosen("run_drawn") == [f"run-{i:02d}" for i in range(24, 4, -1)]
    assert Page(influx, "compare", run=["run-01", "run-00"]).menus.chosen("run_drawn") == ["run-01", "run-00"]


def test_only_parameters_that_are_numbers_have_an_axis(filled: Influx) -> None:
    assert Page(filled, "compare").menus.options["param"] == ["lr", "seed", "steps"]


def test_the_longest_run_says_how_fine_the_curves_are(filled: Influx) -> None:
    def resolution(**chosen: Value) -> str:
        return Page(filled, "compare", **chosen).menus.interpolate("${resolution:raw}")

    assert resolution(run=[data.PLAIN, data.FULL]) == "(metrics)"
    assert resolution(run=[data.PLAIN, data.LONG]) == "(metrics_10000)"


def test_the_metric_that_was_logged_most_often_says_how_fast_a_run_is(influx: Influx) -> None:
    """Of those that were finite at all."""
    of = {"experiment": "e", "run": "r"}
    counts = {"eval/loss": 5, "train/loss": 900, "broken": 1000}
    lines = [f"summary,experiment=e,run=r,metric={name} count={count}i" for name, count in counts.items()]
    points = [f"{line}{'' if 'broken' in line else ',last=0.5'} {START_NS}" for line in lines]
    influx.write("\n".join([*points, run_state(of, "finished", 1, START_NS)]))
    assert Page(influx, "run").menus.chosen("densest") == ["train/loss"]


def test_a_quantity_is_what_the_names_on_all_splits_share(filled: Influx) -> None:
    quantities = Page(filled, "run", run=data.PLAIN).menus.options["quantity"]
    assert quantities == ["loss", 'acc. (top-5) + it\'s "best"']


# --- Tables -----------------------------------------------------------------------------------------------------------


def rows_by_run(rows: list[Row]) -> dict[str, Row]:
    assert len({row["run"] for row in rows}) == len(rows)
    return {row["run"]: row for row in rows}


def test_a_run_has_one_row_with_its_newest_state(filled: Influx) -> None:
    rows = rows_by_run(Page(filled, "runs").ask(queries.run_states("run")))
    columns = {"time", "experiment", "run", "__status", "__started", "__duration", "__steps", "__to"}
    assert {frozenset(row) for row in rows.values()} == {frozenset(columns)}
    assert {run: (row["__status"], row["__steps"]) for run, row in rows.items()} == {
        data.PLAIN: ("finished", 12),
        data.RESUMED: ("finished", 6),
        data.LIVE: ("running", 0),
        data.FAILED: ("failed", 3),
        data.LONG: ("finished", 10_000_000),
        data.FOREIGN: ("finished", 2),
    }
    started_ms = START_NS // 1_000_000
    assert (rows[data.PLAIN]["__started"], rows[data.PLAIN]["__duration"]) == (started_ms, 12)
    assert rows[data.PLAIN]["__to"] == str(started_ms + 12_001)
    assert rows[data.LIVE]["__to"] == "now" and rows[data.LIVE]["__duration"] == 580
    assert rows[data.FOREIGN]["experiment"] == data.OTHER_EXPERIMENT


def test_a_silent_run_is_in_the_other_query_with_the_same_columns_and_a_number_as_its_status(filled: Influx) -> None:
    page = Page(filled, "runs")
    (row,) = page.ask(queries.silent_runs("run"))
    assert (row["run"], row["__status"], row["__duration"], row["__to"]) == (data.FULL, 0, 315, "now")
    assert row.keys() == page.ask(queries.run_states("run"))[0].keys()


def test_in_the_range_that_a_runs_link_opens_its_last_state_is_still_there(filled: Influx) -> None:
    row = rows_by_run(Page(filled, "runs").ask(queries.run_states("run")))[data.PLAIN]
    page = Page(filled, "run", (row["__started"], int(row["__to"])), run=data.PLAIN)
    (found,) = page.ask(queries.run_states("run"))
    assert found["__status"] == "finished"


def test_values_that_are_not_finite_are_counted_a_run(filled: Influx) -> None:
    rows = Page(filled, "runs").ask(queries.nonfinite_counts("run"))
    assert {row["run"]: row["__nonfinite"] for row in rows} == {data.PLAIN: 1, data.FAILED: 3, data.FULL: 60}


def test_the_last_value_of_a_metric_is_that_of_rank_0_and_finite(filled: Influx) -> None:
    rows = Page(filled, "runs").ask(queries.last_values("run"))
    last = {(row["run"], row["metric"]): row["last"] for row in rows}
    assert last[data.PLAIN, data.LOSS] == 0.4
    assert last[data.FULL, data.LOSS] == 29.0, "rank 1 would have 129"
    assert (data.FULL, "broken/loss") not in last and (data.FAILED, data.LOSS) not in last
    assert last[data.PLAIN, data.ACCURACY] == 0.75


@pytest.mark.parametrize(("best", "loss", "validation"), [("min", 0.4, 0.75), ("max", 2.0, 2.5)])
def test_the_best_value_is_over_all_models_and_the_whole_run(
    filled: Influx, best: str, loss: float, validation: float
) -> None:
    rows = Page(filled, "runs", best=best).ask(queries.BEST_VALUES)
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        found.setdefault((row["run"], row["metric"]), []).append(row["best"])
    of_several = min if best == "min" else max  # as the panel does it
    assert of_several(found[data.PLAIN, data.LOSS]) == loss
    assert len(found[data.PLAIN, data.VALIDATION]) == 2
    assert of_several(found[data.PLAIN, data.VALIDATION]) == validation


def test_a_chosen_model_has_its_own_values(filled: Influx) -> None:
    rows = Page(filled, "runs", model=["ema"]).ask(queries.last_values("run"))
    assert [(row["run"], row["metric"], row["last"]) for row in rows] == [(data.PLAIN, data.VALIDATION, 0.75)]


def test_parameters_are_numbers_or_texts(filled: Influx) -> None:
    page = Page(filled, "runs", run=[data.PLAIN])
    numbers = {row["param"]: row["number"] for row in page.ask(queries.param_values("number", "run"))}
    texts = {row["param"]: row["text"] for row in page.ask(queries.param_values("text", "run"))}
    assert numbers == {"lr": 0.1, "seed": 1.0, "steps": 12.0} and texts == {"optimizer": "sgd"}


def test_numbers_and_texts_can_come_in_columns_of_one_name(filled: Influx) -> None:
    page = Page(filled, "compare", run=[data.PLAIN])
    values = {
        row["param"]: row["value"]
        for field in ("number", "text")
        for row in page.ask(queries.param_values(field, "run_drawn", "value"))
    }
    assert values == {"lr": 0.1, "seed": 1.0, "steps": 12.0, "optimizer": "sgd"}


def test_the_number_of_runs_is_that_of_the_runs_drawn(filled: Influx) -> None:
    """A parameter that fewer runs have is not the same in all of them."""
    assert Page(filled, "compare", run=[data.PLAIN, data.LIVE]).menus.chosen("run_count") == ["2"]
    assert Page(filled, "compare", experiment=data.EXPERIMENT).menus.chosen("run_count") == ["6"]


@pytest.mark.parametrize(
    ("metric", "higher"),
    [
        ("eval/accuracy", True),
        ("val_acc", True),
        ("test/top5.acc@1", True),
        ("f1", True),
        ("eval/F1-macro", True),
        ("bleu4", True),
        ("roc_auc", True),
        ("episode_reward", True),
        ("return", True),
        ("samples_per_second", True),
        ("mAP50", True),
        ("reward_loss", False),
        ("train/loss", False),
        ("accuracy_error", False),
        ("bitmap", False),
        ("lr", False),
        ("perplexity", False),
        ("acceleration", False),
    ],
)
def test_whether_high_values_of_a_metric_are_the_good_ones_is_guessed_by_its_name(
    influx: Influx, metric: str, higher: bool
) -> None:
    of = "experiment=e,run=r"
    points = [f"summary,{of},metric={metric} last=0.5,count=1i {START_NS}"]
    influx.write("\n".join([*points, run_state({"experiment": "e", "run": "r"}, "finished", 1, START_NS)]))
    page = Page(influx, "compare")
    found = [
        len(page.ask(query, metric_drawn=metric))
        for query in (queries.FINAL_WHERE_HIGHER_IS_BETTER, queries.FINAL_WHERE_LOWER_IS_BETTER)
    ]
    assert found == [int(higher), int(not higher)]


def test_events_come_newest_first_with_their_run_and_metric(filled: Influx) -> None:
    rows = Page(filled, "runs", run=[data.PLAIN, data.RESUMED]).ask(queries.newest_events(3))
    assert [(row["run"], row["kind"], row["metric"]) for row in rows] == [
        (data.PLAIN, "finish", None),
        (data.RESUMED, "resume", None),
        (data.PLAIN, "nonfinite", data.LOSS),
    ]
    assert rows[0].keys() == {"time", "kind", "run", "step", "metric", "title", "text", "level"}


def test_the_values_of_a_baseline_are_one_a_metric(filled: Influx) -> None:
    page = Page(filled, "compare", run=[data.PLAIN, data.RESUMED], baseline=data.RESUMED)
    assert [(row["metric"], row["base"]) for row in page.ask(queries.BASELINE_VALUES)] == [(data.LOSS, 17.0)]


def test_a_parameter_and_a_final_value_meet_by_run(filled: Influx) -> None:
    page = Page(filled, "compare", param="lr")
    params = {row["run"]: row["param"] for row in page.ask(queries.PARAM_BY_RUN)}
    values = {row["run"]: row["value"] for row in page.ask(queries.FINAL_BY_RUN, metric_drawn=data.LOSS)}
    assert params == {data.PLAIN: 0.1, data.RESUMED: 0.2, data.FULL: 0.3}
    assert values.keys() >= params.keys()
