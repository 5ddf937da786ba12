"""The transformations of every panel, by Grafana's own code on frames as its back end makes them of real answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from statistics import fmean

import pytest

from tests import panels
from tests.panels import EXPERIMENT, PLAIN, RANKED, RESUMED, VIEWS, WITH_NAN, Drawn, Json, Key
from tests.servers.api import Server, new_bucket
from tests.servers.node import Node

PANELS = {(uid, panel["id"]): panel for uid, panel in panels.all_panels()}
TRENDS = {key: panel for key, panel in PANELS.items() if panel["type"] == "trend"}
CHARTS = {key: panel for key, panel in TRENDS.items() if any("${x:raw}" in one["query"] for one in panel["targets"])}


@pytest.fixture(scope="module")
def drawn(node: Node, influxdb_server: Server) -> Iterator[dict[Key, list[Drawn]]]:
    """Every panel in every view: one start of node for all of them."""
    with new_bucket(influxdb_server) as bucket:
        panels.fill(bucket)
        yield panels.draw_all(bucket, node)


def each(some: Mapping[tuple[str, int], Json]) -> pytest.MarkDecorator:
    """A test for each of these panels in each view."""
    keys = [
        pytest.param((uid, number, view), id=f"{uid.removeprefix('metriclog-')}-{number}-{panel['title']}-{view}")
        for (uid, number), panel in some.items()
        for view in VIEWS
    ]
    return pytest.mark.parametrize("key", keys)


def known(drawings: list[Drawn]) -> list[Drawn]:
    """Skips where the npm package lacks a transformation: those are in the page's own code."""
    unknown = {name for one in drawings for name in one.result.get("unknown", [])}
    if unknown:
        pytest.skip(f"not in @grafana/data: {', '.join(sorted(unknown))}")
    assert [one.result["error"] for one in drawings if "error" in one.result] == []
    return drawings


@each(PANELS)
def test_no_chain_fails_and_no_two_columns_of_a_frame_have_one_name(key: Key, drawn: dict[Key, list[Drawn]]) -> None:
    for one in known(drawn[key]):
        for frame in one.result["frames"]:
            names = [(field["name"], tuple(field["labels"].items())) for field in frame["fields"]]
            assert len(names) == len(set(names))
            assert {len(field["values"]) for field in frame["fields"]} <= {frame["length"]}


@each(TRENDS)
def test_what_a_trend_panel_takes_for_x_ascends(key: Key, drawn: dict[Key, list[Drawn]]) -> None:
    """Else it says "Values must be in ascending order"; without `xField` it takes the first number."""
    name = TRENDS[key[:2]]["options"].get("xField")
    for one in known(drawn[key]):
        numbers = [field for field in one.fields if field["type"] == "number" and name in (None, field["name"])]
        values = [value for value in numbers[0]["values"] if value is not None]
        assert values == sorted(values)


@each(CHARTS)
def test_a_chart_over_steps_has_each_x_once_and_numbers_beside_it(key: Key, drawn: dict[Key, list[Drawn]]) -> None:
    for one in known(drawn[key]):
        assert {field["type"] for field in one.fields} == {"number"}
        assert "xField" in TRENDS[key[:2]]["options"] or one.fields[0]["name"] == "x"
        assert all(left < right for left, right in pairwise(one.columns["x"]))


@each(CHARTS)
def test_smoothed_lines_are_drawn_over_the_others(key: Key, drawn: dict[Key, list[Drawn]]) -> None:
    """Columns are drawn in their order, and what was logged is a cloud where there are many runs."""
    for one in known(drawn[key]):
        names = [field["name"] for field in one.fields]
        is_smooth = [name == panels.SMOOTH for name in names if name not in ("x", panels.EDGE)]
        assert is_smooth == sorted(is_smooth)


@each(CHARTS)
def test_a_line_holds_what_was_answered_and_nothing_where_nothing_was(key: Key, drawn: dict[Key, list[Drawn]]) -> None:
    """Of two rows with the same x the last counts, and a row without a value must not become 0."""
    for one in known(drawn[key]):
        if not any(step["id"] == "groupBy" for step in one.transformations):
            assert one.lines == one.answered


@each(CHARTS)
def test_a_smoothed_line_is_where_its_line_is_and_leaves_its_bounds_nowhere(
    key: Key, drawn: dict[Key, list[Drawn]]
) -> None:
    for one in known(drawn[key]):
        for run, smooth in one.smooth.items():
            assert smooth.keys() == one.lines[run].keys()
            values = one.lines[run].values()
            slack = 1e-9 * max(map(abs, values))
            assert all(min(values) - slack <= value <= max(values) + slack for value in smooth.values())


# --- What certain panels must show ------------------------------------------------------------------------------------


def drawing(drawn: dict[Key, list[Drawn]], uid: str, title: str, view: str = "all", **repeated: str) -> Drawn:
    """A table or chart over steps by its title, and where it is repeated by the value that it was repeated for."""
    named = {key: panel["type"] for key, panel in PANELS.items() if (key[0], panel["title"]) == (uid, title)}
    ((_, number),) = [key for key, kind in named.items() if kind in ("table", "trend")]
    (one,) = [one for one in known(drawn[uid, number, view]) if one.repeated == repeated]
    return one


@pytest.mark.parametrize("metric", ["train/loss", "eval/accuracy"])
@pytest.mark.parametrize("title", ["$metric_drawn", "${metric_drawn} (logarithmic)"])
def test_runs_are_compared_by_one_line_a_run_which_is_what_it_logged(
    metric: str, title: str, drawn: dict[Key, list[Drawn]]
) -> None:
    one = drawing(drawn, "metriclog-compare", title, metric_drawn=metric)
    assert one.lines == panels.logged(metric)
    assert one.smooth.keys() == {PLAIN, WITH_NAN, RESUMED, RANKED}


def test_a_metric_with_signs_in_its_name_has_a_panel_of_its_own(drawn: dict[Key, list[Drawn]]) -> None:
    one = drawing(drawn, "metriclog-compare", "$metric_drawn", metric_drawn=panels.ACCURACY)
    assert one.lines == panels.logged(panels.ACCURACY)


def test_one_resumed_run_alone_is_one_line_with_its_newest_values(drawn: dict[Key, list[Drawn]]) -> None:
    view, metric = "a resumed run alone", "train/loss"
    one = drawing(drawn, "metriclog-compare", "$metric_drawn", view, metric_drawn=metric)
    assert one.lines == {RESUMED: panels.logged(metric)[RESUMED]}
    assert one.smooth.keys() == {RESUMED}


@pytest.mark.parametrize("view", ["all", "a resumed run alone"])
@pytest.mark.parametrize("share", [0.1, 0.25])
def test_the_smoothed_line_of_a_resumed_run_knows_nothing_of_what_its_second_attempt_replaced(
    share: float, view: str, drawn: dict[Key, list[Drawn]], node: Node
) -> None:
    """Each point is the mean of those around it by step, not by the time at which they were logged."""
    one = drawing(drawn, "metriclog-compare", "$metric_drawn", view, metric_drawn="train/loss")
    steps = [{**step, "options": {**step["options"]}} for step in one.transformations]
    for step in steps:
        if step["id"] == "calculateField":
            step["options"] = {**step["options"], "window": {**step["options"]["window"], "windowSize": str(share)}}
    (result,) = node.transform([{"transformations": steps, "frames": one.frames}])
    smooth = Drawn(one.repeated, steps, one.frames, result).smooth[RESUMED]
    values = list(panels.logged("train/loss")[RESUMED].values())
    window = math.ceil(share * len(values))
    ahead, behind = math.ceil(window / 2) - 1, window // 2
    means = [fmean(values[max(0, place - behind) : place + ahead + 1]) for place in range(len(values))]
    assert list(smooth.values()) == pytest.approx(means)


def test_a_chart_of_what_a_run_did_not_log_has_a_point_to_say_so_at_each_end_of_the_run(
    drawn: dict[Key, list[Drawn]],
) -> None:
    without = drawing(drawn, "metriclog-run", "On each rank: $metric_ranked", metric_ranked="").columns
    assert (without["x"], without[panels.ABSENT], without[panels.EDGE]) == ([0, 59], [0, None], [None, 0])
    ranked = drawing(drawn, "metriclog-run", "On each rank: $metric_ranked", "ranks", metric_ranked="train/loss")
    assert panels.ABSENT not in ranked.columns
    rate = drawing(drawn, "metriclog-run", "Learning rate").columns
    assert "lr" in rate and panels.ABSENT not in rate


def test_nan_values_are_marks_at_the_edge_and_a_gap_in_the_line(drawn: dict[Key, list[Drawn]]) -> None:
    one = drawing(drawn, "metriclog-run", "$quantity", quantity="loss")
    assert one.lines["nonfinite"] == dict.fromkeys(panels.NAN_STEPS, 0)
    assert one.lines["train/loss"] == panels.logged("train/loss")[WITH_NAN]
    assert not one.lines["train/loss"].keys() & set(panels.NAN_STEPS)


def test_a_rolled_up_stretch_of_nan_is_no_point_and_a_mixed_bucket_is_a_mark_too(drawn: dict[Key, list[Drawn]]) -> None:
    one = drawing(drawn, "metriclog-run", "$quantity", "rolled up", quantity="loss")
    assert one.lines["nonfinite"].keys() == {25, 35, 45}
    assert one.lines["train/loss"].keys() == {5, 15, 45, 55}


def test_the_band_holds_the_mean(drawn: dict[Key, list[Drawn]]) -> None:
    lines = drawing(drawn, "metriclog-run", "$metric_drawn", "rolled up", metric_drawn="train/loss").lines
    assert lines["mean"].keys() == lines["min"].keys() == lines["max"].keys() == {5, 15, 45, 55}
    assert all(lines["min"][x] < value < lines["max"][x] for x, value in lines["mean"].items())


def test_ranks_are_a_line_each_and_together_a_band(drawn: dict[Key, list[Drawn]]) -> None:
    each_rank = drawing(
        drawn, "metriclog-run", "On each rank: $metric_ranked", "ranks", metric_ranked="train/loss"
    ).lines
    assert each_rank.keys() == {"0", "1", "2"}
    assert each_rank["0"] == panels.logged("train/loss")[RANKED]
    together = drawing(
        drawn, "metriclog-run", "Over the ranks: $metric_ranked", "ranks", metric_ranked="train/loss"
    ).columns
    for x, low, mean, high in zip(*(together[name] for name in ("x", "min", "mean", "max")), strict=True):
        values = [line[x] for line in each_rank.values()]
        assert (low, high) == (min(values), max(values))
        assert mean == pytest.approx(sum(values) / 3)


def test_the_table_of_runs_has_a_row_a_run_of_this_experiment(drawn: dict[Key, list[Drawn]]) -> None:
    columns = drawing(drawn, "metriclog-runs", "Runs").columns
    assert set(columns["__run"]) == {PLAIN, WITH_NAN, RESUMED, RANKED}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    by_run = {row["__run"]: row for row in rows}
    assert {run: row["__nonfinite"] for run, row in by_run.items() if row["__nonfinite"]} == {WITH_NAN: 42}
    assert by_run[PLAIN]["__status"] == "finished" and by_run[WITH_NAN]["__status"] == "failed"
    assert {row["__experiment"] for row in rows} == {EXPERIMENT}
    assert {"lr", "lr · last"} <= columns.keys(), "a parameter and a metric of one name"


def test_of_the_parameters_only_those_that_differ_are_compared(drawn: dict[Key, list[Drawn]]) -> None:
    """Also one that is a number in some runs and a text in others, and one that some runs do not have."""
    columns = drawing(drawn, "metriclog-compare", "Parameters that differ").columns
    assert list(columns) == ["__run", "augment", "lr", "warmup"], "and neither optimizer nor model/depth"
    assert list(zip(*columns.values(), strict=True)) == [
        (RESUMED, None, "2.1", "none"),
        (WITH_NAN, "flip", "1.1", "500"),
        (PLAIN, None, "0.1", "none"),
        (RANKED, "flip", "3.1", "500"),
    ]


def test_one_run_alone_has_no_parameters_that_differ(drawn: dict[Key, list[Drawn]]) -> None:
    """And no table without rows either, of which the panel would not say that there is nothing in it."""
    assert drawing(drawn, "metriclog-compare", "Parameters that differ", "a plain run alone").result["frames"] == []


def test_a_run_does_not_differ_from_itself(drawn: dict[Key, list[Drawn]]) -> None:
    columns = drawing(drawn, "metriclog-compare", "Difference to ${baseline}").columns
    assert columns.keys() == {"__run", "train/loss", "train/accuracy", "grad_norm", "lr", "samples_per_second"} | {
        "eval/loss",
        "eval/accuracy",
        panels.ACCURACY,
    }
    rows = {run: values for run, *values in zip(*columns.values(), strict=True)}
    assert rows.keys() == {PLAIN, WITH_NAN, RESUMED, RANKED}
    assert [run for run, values in rows.items() if set(values) == {0}] == [RESUMED]


@pytest.mark.parametrize(("metric", "best_first"), [("eval/loss", min), ("eval/accuracy", max)])
def test_of_the_final_values_the_best_comes_first(
    metric: str, best_first: Callable[..., float], drawn: dict[Key, list[Drawn]]
) -> None:
    ((uid, number),) = [key for key, panel in PANELS.items() if panel["type"] == "bargauge"]
    (one,) = [one for one in known(drawn[uid, number, "all"]) if one.repeated == {"metric_drawn": metric}]
    last = {run: list(line.values())[-1] for run, line in panels.logged(metric).items()}
    assert dict(zip(one.columns["run"], one.columns["value"], strict=True)) == pytest.approx(last)
    assert one.columns["value"] == sorted(last.values(), reverse=best_first is max)
