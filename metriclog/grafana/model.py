"""Builders for Grafana's classic (v1) dashboard JSON. They know Grafana's format, not what metriclog shows.

The official SDK has no InfluxDB query type, hence these few types. The output is deterministic: the same dashboard is
the same bytes, so that a committed file can be compared with a generated one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SCHEMA_VERSION = 42
GRID_COLUMNS = 24
DATASOURCE = {"type": "influxdb", "uid": "${datasource}"}
"""Every query goes to the InfluxDB data source that the dashboard's variable `datasource` names."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Link:
    """A data link: opens `url` from a value on a panel."""

    title: str
    url: str

    def to_dict(self) -> Json:
        return {"title": self.title, "url": self.url}


@dataclass(frozen=True)
class Override:
    """Field properties for the fields that a matcher finds, e.g. `Override("byName", "x", {"unit": "none"})`."""

    matcher: str
    argument: str
    properties: Mapping[str, Any]

    def to_dict(self) -> Json:
        return {
            "matcher": {"id": self.matcher, "options": self.argument},
            "properties": [{"id": name, "value": value} for name, value in self.properties.items()],
        }


@dataclass(frozen=True)
class Fields:
    """How a panel shows its fields: `defaults` for all, `custom` the panel type's own defaults, then overrides."""

    defaults: Mapping[str, Any] = field(default_factory=dict)
    custom: Mapping[str, Any] = field(default_factory=dict)
    links: Sequence[Link] = ()
    overrides: Sequence[Override] = ()

    def to_dict(self) -> Json:
        defaults = {**self.defaults, "custom": dict(self.custom), "links": [link.to_dict() for link in self.links]}
        return {"defaults": defaults, "overrides": [override.to_dict() for override in self.overrides]}


@dataclass(frozen=True)
class Target:
    """One InfluxQL query; `result_format` is "table" (one frame for all series) or "time_series"."""

    ref_id: str
    query: str
    result_format: str = "table"

    def to_dict(self) -> Json:
        return {
            "refId": self.ref_id,
            "datasource": DATASOURCE,
            "rawQuery": True,
            "resultFormat": self.result_format,
            "policy": "default",
            "query": self.query,
        }


@dataclass(frozen=True)
class Transformation:
    """One step between the answer and the panel."""

    id: str
    options: Mapping[str, Any]

    def to_dict(self) -> Json:
        return {"id": self.id, "options": dict(self.options)}


@dataclass(frozen=True)
class Data:
    """What a panel asks and how the answer is reshaped, in order."""

    targets: Sequence[Target]
    transformations: Sequence[Transformation] = ()


@dataclass(frozen=True)
class Size:
    """Size on a grid of 24 columns; a row of height is about 38 pixels.

    With `repeat`, the panel is drawn once per value of that variable, `24 // width` beside each other, and has its
    rows to itself.
    """

    width: int = GRID_COLUMNS
    height: int = 8
    repeat: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.width <= GRID_COLUMNS or self.height <= 0:
            raise ValueError(f"a panel of {self.width} × {self.height} does not fit a grid {GRID_COLUMNS} columns wide")


@dataclass(frozen=True)
class Panel:
    """One panel; `type` is Grafana's name of the panel type, `options` are that type's own."""

    type: str
    title: str
    description: str
    data: Data
    options: Mapping[str, Any]
    fields: Fields
    size: Size

    def to_dict(self, panel_id: int, grid_pos: Mapping[str, int]) -> Json:
        repeat = {}
        if self.size.repeat is not None:
            per_row = GRID_COLUMNS // self.size.width
            repeat = {"repeat": self.size.repeat, "repeatDirection": "h", "maxPerRow": per_row}
        return {
            "id": panel_id,
            "type": self.type,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "targets": [target.to_dict() for target in self.data.targets],
            "transformations": [step.to_dict() for step in self.data.transformations],
            "options": dict(self.options),
            "fieldConfig": self.fields.to_dict(),
            "gridPos": dict(grid_pos),
            **repeat,
        }


def lay_out(panels: Iterable[Panel]) -> list[dict[str, int]]:
    """Grid positions from left to right, then down, in the order given. A row is as high as its highest panel."""
    positions = []
    x = y = row_height = 0
    row_is_closed = False
    for panel in panels:
        size = panel.size
        if row_is_closed or (size.repeat and x > 0) or x + size.width > GRID_COLUMNS:
            x, y, row_height = 0, y + row_height, 0
        positions.append({"x": x, "y": y, "w": size.width, "h": size.height})
        x, row_height, row_is_closed = x + size.width, max(row_height, size.height), size.repeat is not None
    return positions


@dataclass(frozen=True)
class Variable:
    """A dashboard variable; made by the three functions below."""

    name: str
    body: Mapping[str, Any]

    def to_dict(self) -> Json:
        return {"name": self.name, **self.body}


ALL = {"text": ["All"], "value": ["$__all"]}
ASCENDING, DESCENDING = 1, 2
_ON_TIME_RANGE_CHANGE = 2


def datasource_variable(name: str, label: str, *, default_name: str, default_uid: str) -> Variable:
    """A menu of the InfluxDB data sources."""
    current = {"text": default_name, "value": default_uid}
    body = {"type": "datasource", "label": label, "query": "influxdb", "regex": "", "refresh": 1, "current": current}
    return Variable(name, body)


def query_variable(name: str, label: str, query: str, *, sort: int = ASCENDING, multi: bool = False) -> Variable:
    """A menu filled by a query; with `multi` several values can be chosen, and at first all of them are."""
    several = {"multi": True, "includeAll": True, "current": ALL} if multi else {"multi": False, "includeAll": False}
    source = {"datasource": DATASOURCE, "query": {"refId": "v", "query": query}, "refresh": _ON_TIME_RANGE_CHANGE}
    return Variable(name, {"type": "query", "label": label, "sort": sort, **source, **several})


def custom_variable(name: str, label: str, choices: Mapping[str, str]) -> Variable:
    """A menu of fixed choices, text → value; the first is the default.

    Raises ValueError for a comma or " : " in a choice: Grafana separates the choices by them.
    """
    for part in (*choices, *choices.values()):
        if "," in part or " : " in part:
            raise ValueError(f"Grafana would split the choice {part!r}")
    text, value = next(iter(choices.items()))
    query = ",".join(f"{text} : {value}" for text, value in choices.items())
    return Variable(name, {"type": "custom", "label": label, "query": query, "current": {"text": text, "value": value}})


@dataclass(frozen=True)
class TimeRange:
    """The default time range, in Grafana's words ("now-90d"), and how often an open page asks again ("1m")."""

    start: str
    end: str = "now"
    refresh: str = ""


@dataclass(frozen=True)
class Dashboard:
    """A whole dashboard. `uid` (at most 40 characters) is its address and must never change."""

    uid: str
    title: str
    description: str
    tags: Sequence[str]
    variables: Sequence[Variable]
    panels: Sequence[Panel]
    time: TimeRange

    def to_dict(self) -> Json:
        positions = lay_out(self.panels)
        numbered = enumerate(zip(self.panels, positions, strict=True), start=1)
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": list(self.tags),
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "timezone": "browser",
            "time": {"from": self.time.start, "to": self.time.end},
            "refresh": self.time.refresh,
            "annotations": {"list": []},
            "links": [],
            "templating": {"list": [variable.to_dict() for variable in self.variables]},
            "panels": [panel.to_dict(panel_id, position) for panel_id, (panel, position) in numbered],
        }

    def to_json(self) -> str:
        """The text of the dashboard file: keys sorted, one trailing newline."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
