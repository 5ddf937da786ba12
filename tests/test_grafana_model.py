"""The builders of dashboard JSON: panels never overlap, the same dashboard is the same bytes, bad input is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metriclog.grafana import model

SIZES = st.builds(
    model.Size,
    width=st.sampled_from([4, 6, 8, 12, 24]),
    height=st.integers(1, 20),
    repeat=st.sampled_from([None, "metric"]),
)


def panel(size: model.Size, title: str = "Loss") -> model.Panel:
    return model.Panel(
        type="trend",
        title=title,
        description="One line per run.",
        data=model.Data([model.Target("A", 'SELECT "value" FROM "metrics"')]),
        options={"legend": {"showLegend": True}},
        fields=model.Fields(links=[model.Link("Open", "/d/x")], overrides=[model.Override("byName", "x", {"min": 0})]),
        size=size,
    )


def dashboard(*sizes: model.Size) -> model.Dashboard:
    return model.Dashboard(
        uid="test",
        title="Test",
        description="For the tests.",
        tags=["test"],
        variables=[model.query_variable("run", "Run", "SHOW …", multi=True)],
        panels=[panel(size) for size in sizes],
        time=model.TimeRange("now-1h"),
    )


def cells(position: dict[str, int]) -> set[tuple[int, int]]:
    columns = range(position["x"], position["x"] + position["w"])
    rows = range(position["y"], position["y"] + position["h"])
    return {(column, row) for column in columns for row in rows}


@given(st.lists(SIZES, max_size=12))
def test_panels_stay_in_the_grid_and_never_overlap(sizes: list[model.Size]) -> None:
    taken: set[tuple[int, int]] = set()
    for position in model.lay_out([panel(size) for size in sizes]):
        here = cells(position)
        assert max(column for column, _ in here) < model.GRID_COLUMNS
        assert not here & taken
        taken |= here


@given(st.lists(SIZES, max_size=12))
def test_nothing_stands_beside_a_panel_that_repeats(sizes: list[model.Size]) -> None:
    positions = model.lay_out([panel(size) for size in sizes])
    for size, position in zip(sizes, positions, strict=True):
        if size.repeat:
            rows = range(position["y"], position["y"] + position["h"])
            others = [other for other in positions if other is not position]
            assert not any(row in range(other["y"], other["y"] + other["h"]) for row in rows for other in others)


def test_panels_fill_a_row_from_the_left_and_then_go_on_below_the_highest() -> None:
    sizes = [model.Size(12, 8), model.Size(12, 6), model.Size(24, 4)]
    places = [(p["x"], p["y"]) for p in model.lay_out([panel(size) for size in sizes])]
    assert places == [(0, 0), (12, 0), (0, 8)]


@pytest.mark.parametrize(("width", "height"), [(25, 8), (0, 8), (12, 0)])
def test_a_panel_that_fits_no_grid_is_refused(width: int, height: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        model.Size(width, height)


def test_a_repeated_panel_says_how_many_fit_beside_each_other() -> None:
    made = dashboard(model.Size(8, 8, repeat="metric")).to_dict()["panels"][0]
    assert (made["repeat"], made["repeatDirection"], made["maxPerRow"]) == ("metric", "h", 3)


def test_a_panel_that_does_not_repeat_says_nothing_about_it() -> None:
    assert not {"repeat", "maxPerRow"} & dashboard(model.Size()).to_dict()["panels"][0].keys()


def test_panels_are_numbered_from_one() -> None:
    made = dashboard(model.Size(12), model.Size(12), model.Size()).to_dict()
    assert [made_panel["id"] for made_panel in made["panels"]] == [1, 2, 3]


def test_the_same_dashboard_is_the_same_bytes_and_ends_with_one_newline() -> None:
    text = dashboard(model.Size(), model.Size(12)).to_json()
    assert text == dashboard(model.Size(), model.Size(12)).to_json()
    assert text.endswith("}\n") and not text.endswith("\n\n")
    assert json.loads(text) == dashboard(model.Size(), model.Size(12)).to_dict()


def test_the_format_is_classic_and_carries_nothing_of_one_server() -> None:
    made = dashboard(model.Size()).to_dict()
    assert made["schemaVersion"] == 42
    assert not {"id", "__inputs", "spec"} & made.keys()


def test_links_and_custom_settings_stand_in_the_field_defaults() -> None:
    fields = dashboard(model.Size()).to_dict()["panels"][0]["fieldConfig"]
    assert fields["defaults"] == {"custom": {}, "links": [{"title": "Open", "url": "/d/x"}]}
    assert fields["overrides"] == [
        {"matcher": {"id": "byName", "options": "x"}, "properties": [{"id": "min", "value": 0}]}
    ]


def test_a_menu_of_several_values_starts_with_all_of_them() -> None:
    variable = model.query_variable("run", "Run", "SHOW …", multi=True).to_dict()
    assert variable["multi"] and variable["includeAll"] and variable["current"]["value"] == ["$__all"]


def test_a_menu_of_fixed_choices_starts_with_the_first() -> None:
    variable = model.custom_variable("x", "X axis", {"step": '"step"', "hours": '"elapsed" / 3600'}).to_dict()
    assert variable["query"] == 'step : "step",hours : "elapsed" / 3600'
    assert variable["current"] == {"text": "step", "value": '"step"'}


@pytest.mark.parametrize("choices", [{"a,b": "1"}, {"a": "f(1,2)"}, {"a : b": "1"}])
def test_a_choice_that_grafana_would_split_is_refused(choices: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="would split"):
        model.custom_variable("x", "X", choices)
