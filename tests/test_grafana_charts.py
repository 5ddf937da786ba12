"""The charts of Compare and Run: how their lines lie, what stands beside them, and what an empty one says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from metriclog import dashboard_queries as queries
from tests.dashboard_files import DASHBOARDS, panel_of, panels_of, property_of, variables_of

COMMITTED = Path(__file__).resolve().parents[1] / "dashboards"


@pytest.mark.parametrize("title", ["$metric_drawn", "${metric_drawn} (logarithmic)", "Large chart: ${metric_large}"])
def test_the_smooth_lines_lie_on_top_in_the_order_of_the_runs(title: str) -> None:
    """Fields are sorted by name in reverse, the last on top: value (last), then smooth."""
    panel = panel_of("compare", title)
    by_name, by_run = panel["transformations"][-2]["options"]["orderBy"]
    assert (by_name, by_run) == ({"type": "name", "desc": True}, {"type": "label", "name": "name", "desc": False})
    steps = {step["id"]: step["options"] for step in panel["transformations"]}
    assert steps["calculateField"]["alias"] == "smooth"
    assert steps["calculateField"]["window"]["field"] == "value (last)"
    assert steps["calculateField"]["window"]["windowSize"] == "${smooth:raw}"
    assert property_of(panel, "smooth", "custom.lineWidth") == 2
    assert property_of(panel, "value (last)", "custom.hideFrom")["legend"] is True
    assert panel["targets"][0]["refId"] == "edge", "the join keeps the x of its first table"


def test_the_names_of_twenty_runs_stand_beside_one_chart_and_take_no_room_in_the_others() -> None:
    shown = {
        panel["title"]: panel["options"]["legend"]["placement"]
        for panel in panels_of(DASHBOARDS["metriclog/compare.json"])
        if panel["type"] == "trend" and panel["options"]["legend"]["showLegend"]
    }
    assert shown == {"Large chart: ${metric_large}": "right"}


def test_a_difference_of_more_than_tenfold_is_said_in_a_few_letters() -> None:
    mappings = panel_of("compare", "Difference to ${baseline}")["fieldConfig"]["defaults"]["mappings"]
    ranges = [one["options"] for one in mappings if one["type"] == "range"]
    assert [(one["from"], one["to"]) for one in ranges] == [(10, None), (None, -10)]
    assert all(len(one["result"]["text"]) < 12 for one in ranges)


def test_a_chart_that_can_be_empty_says_what_it_would_show() -> None:
    for title, words in {
        "Learning rate": "No metric of this run has lr or learning rate as a word in its name",
        "Gradient norm": "No metric of this run has grad_norm or the like in its name",
        "Over the ranks: $metric_ranked": "This run has no ranks, or none that logged a chosen metric",
        "On each rank: $metric_ranked": "This run has no ranks, or none that logged a chosen metric",
    }.items():
        panel = panel_of("run", title)
        assert "absent" in {target["refId"] for target in panel["targets"]}
        assert property_of(panel, "absent", "displayName") == words
        assert property_of(panel, "absent", "custom.hideFrom")["legend"] is False


def test_smoothing_can_be_off_and_is_never_a_window_of_nothing() -> None:
    sizes = [float(choice.rpartition(" : ")[2]) for choice in variables_of("compare")["smooth"]["query"].split(",")]
    assert all(size > 0 for size in sizes) and min(sizes) < 1e-5


def test_a_logarithmic_twin_is_folded_away_and_its_x_is_linear() -> None:
    (row,) = (row for row in DASHBOARDS["metriclog/compare.json"]["panels"] if row.get("collapsed"))
    (panel,) = row["panels"]
    assert panel["fieldConfig"]["defaults"]["custom"]["scaleDistribution"] == {"type": "log", "log": 10}
    assert panel["fieldConfig"]["defaults"]["unit"] == "sci", "rounded to the decimals of 0.1, 0.02 would be labelled 0"
    assert property_of(panel, "x", "custom.scaleDistribution") == {"type": "linear"}


def test_the_resolution_is_automatic_and_can_be_chosen() -> None:
    for name in ("compare", "run"):
        menus = variables_of(name)
        first, *others = menus["resolution"]["query"].split(",")
        assert first == "Auto : (${auto:raw})", "in brackets, or it would equal a manual choice and stick to it"
        assert [other.rpartition(" : ")[2] for other in others][:3] == ["metrics", "metrics_10", "metrics_100"]
        assert menus["auto"]["hide"] == 2


def test_the_x_axis_menu_offers_the_steps_first_and_every_axis_there_is() -> None:
    for name in ("compare", "run"):
        menu = variables_of(name)["x"]
        assert menu["query"].split(",") == [f"{label} : {text}" for label, text in queries.X_AXES.items()]
        assert menu["current"]["text"] == "step"


def test_a_spike_in_a_band_is_a_line_not_only_an_area() -> None:
    panel = next(
        panel
        for panel in panels_of(DASHBOARDS["metriclog/run.json"])
        if "band" in {target["refId"] for target in panel["targets"]}
    )
    assert property_of(panel, "max", "custom.lineWidth") == 1
    assert property_of(panel, "max", "custom.fillBelowTo") == "min"


def test_training_and_validation_are_told_apart_by_their_names() -> None:
    def is_like(pattern: str, name: str) -> bool:
        return re.search(pattern.removeprefix("/").removesuffix("/i"), name, re.I) is not None

    for name in ("val/loss", "val_loss", "eval/accuracy", "Loss/test", "validation.f1"):
        assert is_like(queries.VALIDATION_NAME, name) and not is_like(queries.TRAINING_NAME, name)
    for name in ("train/loss", "train_loss", "Loss/train"):
        assert is_like(queries.TRAINING_NAME, name) and not is_like(queries.VALIDATION_NAME, name)
    for name in ("loss", "value", "trainer/lr", "interval"):
        assert not is_like(queries.TRAINING_NAME, name) and not is_like(queries.VALIDATION_NAME, name)


def test_the_file_holds_the_regex_of_the_matrix_key_as_grafana_reads_it() -> None:
    text = (COMMITTED / "metriclog" / "run.json").read_text(encoding="utf-8")
    assert r'"regex": "^(.*)\\\\metric$"' in text
    assert json.loads(text)["uid"] == "metriclog-run"


def test_what_makes_room_for_the_last_label_is_never_seen() -> None:
    """Also where all else is drawn as points; and by the wall clock it is there only where there is something else."""
    with_edge = [
        panel
        for name in ("compare", "run", "delivery")
        for panel in panels_of(DASHBOARDS[f"metriclog/{name}.json"])
        if "edge" in {target["refId"] for target in panel["targets"]}
    ]
    assert {panel["type"] for panel in with_edge} == {"trend", "timeseries"}
    for panel in with_edge:
        assert property_of(panel, "edge", "custom.drawStyle") == "line"
        assert property_of(panel, "edge", "custom.showPoints") == "never"
        assert property_of(panel, "edge", "custom.hideFrom") == {"legend": True, "tooltip": True, "viz": False}


def test_steps_per_second_have_an_axis_of_their_own_and_a_pause_is_a_gap() -> None:
    panel = panel_of("run", "Throughput")
    custom = panel["fieldConfig"]["defaults"]["custom"]
    assert (custom["axisPlacement"], property_of(panel, "steps per second", "custom.axisPlacement")) == (
        "right",
        "left",
    )
    assert custom["insertNulls"] > 0 and custom["spanNulls"] is False, "else the gap is bridged again"


def test_of_what_was_lost_a_process_has_one_line() -> None:
    panel = panel_of("delivery", "Quarantined and dropped points")
    assert [target["refId"] for target in panel["targets"]] == ["by_time", "edge"]
