"""Builders for the variables of a Grafana dashboard, its menus. They know Grafana's format, not what we offer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

DATASOURCE = {"type": "influxdb", "uid": "${datasource}"}
"""Every query goes to the InfluxDB data source that the dashboard's variable `datasource` names."""

PROMETHEUS = {"type": "prometheus", "uid": "${prometheus}"}
"""Every query in PromQL goes to the Prometheus data source that the dashboard's variable `prometheus` names."""

ALL = {"text": ["All"], "value": ["$__all"]}
AS_ANSWERED, ASCENDING = 0, 1
"""The order of a menu's choices."""

EVERYTHING = ".*"
"""What All can stand for where a list of all choices would miss what has no value, or grow too long."""

_ON_TIME_RANGE_CHANGE = 2
_UNSEEN = 2
_TUCKED_AWAY = 3


@dataclass(frozen=True)
class Variable:
    """A dashboard variable; made by the functions below."""

    name: str
    body: Mapping[str, Any]

    def to_dict(self) -> Json:
        return {"name": self.name, **self.body}


def datasource_variable(
    name: str, label: str, *, default_name: str, default_uid: str, kind: str = "influxdb"
) -> Variable:
    """A menu of the data sources of one kind."""
    current = {"text": default_name, "value": default_uid}
    body = {"type": "datasource", "label": label, "query": kind, "regex": "", "refresh": 1, "current": current}
    return Variable(name, body)


def single_variable(name: str, label: str, query: str, *, sort: int = ASCENDING) -> Variable:
    """A menu filled by a query, of which one value is chosen; at first the first one."""
    return Variable(name, {"label": label, **_asking(query, sort), "multi": False, "includeAll": False})


def multi_variable(name: str, label: str, query: str, *, sort: int = ASCENDING, all_value: str = "") -> Variable:
    """A menu filled by a query, of which several values can be chosen; at first all of them."""
    return Variable(name, {"label": label, **_asking(query, sort), **_several(all_value)})


def hidden_variable(name: str, query: str, *, several: bool = True, regex: str = "") -> Variable:
    """All values that a query gives, or the first, for other variables and queries; in no menu and no address.

    `regex` picks a part of each value.
    """
    choice = _several("") if several else {"multi": False, "includeAll": False}
    unseen = {"hide": _UNSEEN, "skipUrlSync": True, "regex": regex}
    return Variable(name, {**_asking(query, AS_ANSWERED), **choice, **unseen})


def prometheus_variable(name: str, label: str, query: str) -> Variable:
    """A menu filled by a query of Grafana's to Prometheus. Several can be chosen; All stands for everything."""
    return Variable(name, {"label": label, **_asking_prometheus(query), **_several(EVERYTHING)})


def hidden_prometheus_variable(name: str, query: str, regex: str) -> Variable:
    """The part that `regex` picks of each line of such a query's answer; in no menu and no address."""
    unseen = {"hide": _UNSEEN, "skipUrlSync": True, "regex": regex}
    return Variable(name, {**_asking_prometheus(query), **_several(""), **unseen})


def _asking_prometheus(query: str) -> Json:
    source = {"datasource": PROMETHEUS, "query": {"refId": "v", "query": query}, "definition": query}
    return {"type": "query", "sort": ASCENDING, "refresh": _ON_TIME_RANGE_CHANGE, **source}


def tucked_away(variable: Variable) -> Variable:
    """The same menu behind the button with three dots, where it takes no room; Grafana 12.2 and older show it."""
    return Variable(variable.name, {**variable.body, "hide": _TUCKED_AWAY})


def _asking(query: str, sort: int) -> Json:
    source = {"datasource": DATASOURCE, "query": {"refId": "v", "query": query}}
    return {"type": "query", "sort": sort, "refresh": _ON_TIME_RANGE_CHANGE, **source}


def _several(all_value: str) -> Json:
    return {"multi": True, "includeAll": True, "allValue": all_value, "current": ALL}


def custom_variable(name: str, label: str, choices: Mapping[str, str]) -> Variable:
    """A menu of fixed choices, text → value; the first is the default.

    Raises ValueError for a comma or " : " in a choice: Grafana separates the choices by them.
    """
    text, value = next(iter(choices.items()))
    current = {"text": text, "value": value}
    return Variable(name, {"type": "custom", "label": label, "query": _listed(choices), "current": current})


def multi_custom_variable(name: str, label: str, choices: Mapping[str, str]) -> Variable:
    """A menu of fixed choices of which several can be chosen; All, the default, is everything. Raises as the other."""
    return Variable(name, {"type": "custom", "label": label, "query": _listed(choices), **_several(EVERYTHING)})


def _listed(choices: Mapping[str, str]) -> str:
    for part in (*choices, *choices.values()):
        if "," in part or " : " in part:
            raise ValueError(f"Grafana would split the choice {part!r}")
    return ",".join(f"{text} : {value}" for text, value in choices.items())
