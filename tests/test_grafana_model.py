"""The builders of dashboard JSON: panels never overlap, the same dashboard is the same bytes, bad input is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metriclog.grafana import menus, model

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


def dashboard(*sizes: model.Size, sections: Sequence[model.Section] = ()) -> model.Dashboard:
    return model.Dashboard(
        heading=model.Heading("test", "Test", "For the tests."),
        time=model.TimeRange("now-1h"),
        variables=[menus.multi_variable("run", "Run", "SHOW …")],
        panels=[panel(size) for size in sizes],
        sections=sections,
        links=[model.Link("Other", "/d/other")],
        annotations=[model.Annotation("Problems", "red", "SELECT …")],
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


def test_a_section_begins_below_what_comes_before_and_its_panels_below_its_heading() -> None:
    opened = model.Section("Curves", [panel(model.Size(12, 5)), panel(model.Size(12, 6))])
    made = dashboard(model.Size(24, 4), sections=[opened, model.Section("More", [panel(model.Size(8, 3))])]).to_dict()
    places = [(p["type"], p["gridPos"]["x"], p["gridPos"]["y"]) for p in made["panels"]]
    assert places == [
        ("trend", 0, 0),
        ("row", 0, 4),
        ("trend", 0, 5),
        ("trend", 12, 5),
        ("row", 0, 11),
        ("trend", 0, 12),
    ]
    assert [p["id"] for p in made["panels"]] == [1, 2, 3, 4, 5, 6]


def test_a_folded_section_keeps_its_panels_to_itself() -> None:
    """Grafana asks for them only when the row is opened."""
    folded = model.Section("Ranks", [panel(model.Size(12, 5))], folded=True)
    row, after = dashboard(sections=[folded, model.Section("More", [])]).to_dict()["panels"]
    assert row["collapsed"] is True and [inside["id"] for inside in row["panels"]] == [2]
    assert after["collapsed"] is False and after["panels"] == []


def test_a_query_is_a_table_or_with_an_alias_series() -> None:
    assert model.Target("A", "SELECT …").to_dict()["resultFormat"] == "table"
    over_time = model.Target("A", "SELECT …", alias="$tag_run").to_dict()
    assert (over_time["resultFormat"], over_time["alias"]) == ("time_series", "$tag_run")


def test_a_transformation_is_for_all_tables_or_for_those_of_one_query() -> None:
    assert "filter" not in model.Transformation("merge", {}).to_dict()
    assert model.Transformation("merge", {}, "A").to_dict()["filter"] == {"id": "byRefId", "options": "A"}


def test_a_link_at_the_top_keeps_the_time_and_only_the_variables_it_names() -> None:
    (link,) = dashboard().to_dict()["links"]
    assert (link["url"], link["keepTime"], link["includeVars"]) == ("/d/other", True, False)


def test_annotations_are_on_and_ask_for_a_table() -> None:
    (annotation,) = dashboard().to_dict()["annotations"]["list"]
    assert annotation["enable"] and annotation["iconColor"] == "red"
    assert annotation["target"]["resultFormat"] == "table" and annotation["target"]["rawQuery"]
