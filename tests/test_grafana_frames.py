"""What stands in for Grafana in other tests: frames as its back end makes them, menus as its page fills them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.grafana_frames import frames_of
from tests.grafana_variables import Menus

TABLE = {"refId": "A", "resultFormat": "table"}
SERIES: list[dict[str, Any]] = [
    {"name": "metrics", "tags": {"run": "a", "rank": "0"}, "columns": ["time", "x"], "values": [[1, 5], [2, None]]},
    {"name": "metrics", "tags": {"run": "b", "rank": ""}, "columns": ["time", "x"], "values": [[1, 7.5]]},
]


def columns_of(frame: dict[str, Any]) -> dict[str, Any]:
    names = [field["name"] for field in frame["schema"]["fields"]]
    return dict(zip(names, frame["data"]["values"], strict=True))


def test_a_table_is_one_frame_with_the_tags_as_columns() -> None:
    (frame,) = frames_of(TABLE, SERIES)
    assert columns_of(frame) == {"Time": [1, 2, 1], "run": ["a", "a", "b"], "rank": ["0", "0", ""], "x": [5, None, 7.5]}
    assert [field["type"] for field in frame["schema"]["fields"]] == ["time", "string", "string", "number"]


def test_tags_can_come_in_the_other_order() -> None:
    (frame,) = frames_of(TABLE, SERIES, tags_reversed=True)
    assert list(columns_of(frame)) == ["Time", "rank", "run", "x"]


def test_time_series_are_a_frame_each_and_named_by_the_alias() -> None:
    target = {"refId": "A", "resultFormat": "time_series", "alias": "$tag_run of $col $nothing"}
    frames = frames_of(target, SERIES)
    assert [frame["schema"]["name"] for frame in frames] == ["a of x $nothing", "b of x $nothing"]
    assert frames[0]["schema"]["fields"][1]["labels"] == {"run": "a", "rank": "0"}


def test_a_column_without_any_value_is_a_column_of_numbers() -> None:
    (frame,) = frames_of(TABLE, [{"name": "m", "columns": ["time", "text"], "values": [[1, None]]}])
    assert frame["schema"]["fields"][1]["type"] == "number"


def test_texts_and_numbers_in_one_column_are_refused() -> None:
    with pytest.raises(ValueError, match="column x holds"):
        frames_of(TABLE, [{"name": "m", "columns": ["time", "x"], "values": [[1, "a"], [2, 1.0]]}])


def test_no_series_is_no_frame() -> None:
    assert frames_of(TABLE, []) == []


# --- Menus ------------------------------------------------------------------------------------------------------------

RUNS = {"name": "run", "type": "query", "query": {"query": "RUNS"}, "sort": 0, "multi": True}
ALL_RUNS = {**RUNS, "current": {"value": ["$__all"]}}


def menus(*variables: dict[str, Any], answers: dict[str, list[list[Any]]], **chosen: str) -> Menus:
    return Menus({"templating": {"list": list(variables)}}, answers.__getitem__, 1000, 2000, **chosen)


def test_all_is_every_value_that_was_answered_once() -> None:
    found = menus(ALL_RUNS, answers={"RUNS": [["run", "b"], ["run", "a.1"], ["run", "b"]]})
    assert (
        found.interpolate("/^${run:regex}$/ AND $timeFilter") == r"/^(b|a\.1)$/ AND time >= 1000ms and time <= 2000ms"
    )
    assert found.chosen("run") == ["b", "a.1"]


def test_all_may_stand_for_a_pattern_that_is_not_escaped() -> None:
    found = menus({**ALL_RUNS, "allValue": ".*"}, answers={"RUNS": [["run", "a"]]})
    assert found.interpolate("/^${run:regex}$/") == "/^.*$/"
    assert found.interpolate("/^${run:regex}$/", run="a.1") == r"/^a\.1$/", "but a repeated panel is one value's"


def test_a_regex_picks_a_part_of_each_value_and_drops_what_does_not_match() -> None:
    picking = {**ALL_RUNS, "regex": "/^(?:train|eval).(?<value>.+)$/i", "sort": 1}
    found = menus(picking, answers={"RUNS": [["key", "Train/loss"], ["key", "eval/acc"], ["key", "lr"]]})
    assert found.chosen("run") == ["acc", "loss"]


def test_a_menu_of_one_takes_the_first_and_an_empty_one_nothing() -> None:
    one = {**RUNS, "multi": False}
    assert menus(one, answers={"RUNS": [["run", "b"], ["run", "a"]]}).chosen("run") == ["b"]
    assert menus(one, answers={"RUNS": []}).interpolate("/^${run:regex}$/") == "/^$/"


def test_choices_may_hold_variables_and_have_a_text_of_their_own() -> None:
    auto = {"name": "auto", "type": "query", "query": {"query": "AUTO"}, "sort": 0}
    resolution = {"name": "resolution", "type": "custom", "query": "Auto : (${auto:raw}),Every step : metrics"}
    answers = {"AUTO": [[0, "metrics_10"]]}
    found = menus(auto, resolution, answers=answers)
    assert found.interpolate("${resolution:raw} ${resolution:text}") == "(metrics_10) Auto"
    assert (
        menus(auto, resolution, answers=answers, resolution="metrics").interpolate("${resolution:text}") == "Every step"
    )


def test_what_the_back_end_replaces_can_be_left_to_it() -> None:
    found = menus(ALL_RUNS, answers={"RUNS": [["run", "a"]]})
    text = "SELECT ${run:raw} WHERE $timeFilter GROUP BY time($__interval) $__interval_ms"
    assert found.without_macros(text) == text.replace("${run:raw}", "a")


def test_a_kind_of_menu_that_is_not_known_here_is_an_error() -> None:
    with pytest.raises(ValueError, match="of the type adhoc"):
        menus({"name": "filters", "type": "adhoc"}, answers={})
