"""The builders of menus: what is chosen at first, what All stands for, what stays hidden; bad choices are refused."""

from __future__ import annotations

import pytest

from metriclog.grafana import menus


def test_a_menu_of_one_value_starts_with_the_first() -> None:
    variable = menus.single_variable("run", "Run", "SHOW …").to_dict()
    assert not variable["multi"] and not variable["includeAll"] and "current" not in variable


def test_a_menu_of_several_values_starts_with_all_of_them() -> None:
    variable = menus.multi_variable("run", "Run", "SHOW …").to_dict()
    assert variable["multi"] and variable["includeAll"] and variable["current"]["value"] == ["$__all"]
    assert variable["allValue"] == "", "All is the list of what there is"


def test_all_can_stand_for_everything() -> None:
    variable = menus.multi_variable("model", "Model", "SHOW …", all_value=menus.EVERYTHING).to_dict()
    assert variable["allValue"] == ".*"


def test_a_menu_is_asked_for_anew_when_the_time_range_changes() -> None:
    assert menus.single_variable("run", "Run", "SHOW …").to_dict()["refresh"] == 2


def test_a_hidden_variable_is_in_no_menu_and_in_no_address() -> None:
    variable = menus.hidden_variable("auto", "SELECT …", several=False, regex="/(.*)/").to_dict()
    assert variable["hide"] == 2 and variable["skipUrlSync"] is True and variable["regex"] == "/(.*)/"
    assert not variable["multi"]
    assert menus.hidden_variable("drawn", "SHOW …").to_dict()["current"]["value"] == ["$__all"]


def test_a_menu_of_fixed_choices_starts_with_the_first() -> None:
    variable = menus.custom_variable("x", "X axis", {"step": '"step"', "hours": '"elapsed" / 3600'}).to_dict()
    assert variable["query"] == 'step : "step",hours : "elapsed" / 3600'
    assert variable["current"] == {"text": "step", "value": '"step"'}


def test_of_fixed_choices_several_can_be_chosen_and_all_is_everything() -> None:
    variable = menus.multi_custom_variable("status", "Status", {"running": "running", "failed": "failed"}).to_dict()
    assert variable["multi"] and variable["allValue"] == ".*" and variable["current"]["value"] == ["$__all"]


@pytest.mark.parametrize("choices", [{"a,b": "1"}, {"a": "f(1,2)"}, {"a : b": "1"}])
def test_a_choice_that_grafana_would_split_is_refused(choices: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="would split"):
        menus.custom_variable("x", "X", choices)
    with pytest.raises(ValueError, match="would split"):
        menus.multi_custom_variable("x", "X", choices)
