"""Builders for Grafana's classic (v1) dashboard JSON. They know Grafana's format, not what metriclog shows.

The official SDK has no InfluxDB query type, hence these few types. The output is deterministic: the same dashboard is
the same bytes, so that a committed file can be compared with a generated one.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from metriclog.grafana.menus import DATASOURCE, PROMETHEUS, Json, Variable

SCHEMA_VERSION = 42
PLUGIN_VERSION = "12.3.0"
"""What the panels are written for. Without it Grafana takes a scatter chart for one of an old format, and fails."""

GRID_COLUMNS = 24


@dataclass(frozen=True)
class Link:
    """A link that opens `url`: from a value on a panel, or from the top of a dashboard."""

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


EDGE = Override(
    "byName",
    "edge",
    {
        "custom.axisPlacement": "right",
        "custom.axisWidth": 36,
        "custom.axisGridShow": False,
        "custom.drawStyle": "line",
        "custom.showPoints": "never",
        "custom.hideFrom": {"legend": True, "tooltip": True, "viz": False},
        "custom.scaleDistribution": {"type": "linear"},
        "min": 0,
        "max": 1,
        "mappings": [{"type": "range", "options": {"from": -1, "to": 2, "result": {"text": " ", "index": 0}}}],
        "links": [],
    },
)
"""Makes a field called edge, in which all is 0, an unseen one with an axis at the right that has no labels. The axis at
the bottom has room for its last label then, which else is cut."""


@dataclass(frozen=True)
class Target:
    """One InfluxQL query. Its answer is one table, or with an `alias` for their names as many time series."""

    ref_id: str
    query: str
    alias: str | None = None

    def to_dict(self) -> Json:
        shape = {"resultFormat": "table"}
        if self.alias is not None:
            shape = {"resultFormat": "time_series", "alias": self.alias}
        query = {"rawQuery": True, "query": self.query, "policy": "default"}
        return {"refId": self.ref_id, "datasource": DATASOURCE, **query, **shape}


@dataclass(frozen=True)
class PromTarget:
    """One query in PromQL. Its answer is a table of what holds now, or with a `legend` for names lines over time."""

    ref_id: str
    query: str
    legend: str | None = None

    def to_dict(self) -> Json:
        shape: Json = {"format": "table", "instant": True, "range": False}
        if self.legend is not None:
            shape = {"format": "time_series", "instant": False, "range": True, "legendFormat": self.legend}
        return {"refId": self.ref_id, "datasource": PROMETHEUS, "editorMode": "code", "expr": self.query, **shape}


@dataclass(frozen=True)
class Transformation:
    """One step between the answer and the panel: for all tables, or for those whose query `only` names.

    `only` is one refId or a pattern of several: `/^(A|B)$/`.
    """

    id: str
    options: Mapping[str, Any]
    only: str | None = None

    def to_dict(self) -> Json:
        which = {} if self.only is None else {"filter": {"id": "byRefId", "options": self.only}}
        return {"id": self.id, "options": dict(self.options), **which}


@dataclass(frozen=True)
class Data:
    """What a panel asks and how the answer is reshaped, in order; `$__interval` is `interval` or longer."""

    targets: Sequence[Target | PromTarget] = ()
    transformations: Sequence[Transformation] = ()
    interval: str | None = None

    @property
    def datasource(self) -> Json:
        """Where all of it comes from."""
        return PROMETHEUS if any(isinstance(target, PromTarget) for target in self.targets) else DATASOURCE


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
class Words:
    """What a panel says of itself."""

    title: str
    description: str


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
        more: Json = {} if self.data.interval is None else {"interval": self.data.interval}
        if self.size.repeat is not None:
            per_row = GRID_COLUMNS // self.size.width
            more |= {"repeat": self.size.repeat, "repeatDirection": "h", "maxPerRow": per_row}
        return {
            "id": panel_id,
            "type": self.type,
            "pluginVersion": PLUGIN_VERSION,
            "title": self.title,
            "description": self.description,
            "datasource": self.data.datasource,
            "targets": [target.to_dict() for target in self.data.targets],
            "transformations": [step.to_dict() for step in self.data.transformations],
            "options": dict(self.options),
            "fieldConfig": self.fields.to_dict(),
            "gridPos": dict(grid_pos),
            **more,
        }


def lay_out(panels: Iterable[Panel], top: int = 0) -> list[dict[str, int]]:
    """Grid positions from left to right, then down, from the row `top` on. A row is as high as its highest panel."""
    positions = []
    x = row_height = 0
    y = top
    row_is_closed = False
    for panel in panels:
        size = panel.size
        if row_is_closed or (size.repeat and x > 0) or x + size.width > GRID_COLUMNS:
            x, y, row_height = 0, y + row_height, 0
        positions.append({"x": x, "y": y, "w": size.width, "h": size.height})
        x, row_height, row_is_closed = x + size.width, max(row_height, size.height), size.repeat is not None
    return positions


@dataclass(frozen=True)
class Section:
    """Panels under a heading that folds them away. `folded` ones are asked for only when somebody unfolds them."""

    title: str
    panels: Sequence[Panel]
    folded: bool = False


@dataclass(frozen=True)
class TimeRange:
    """The default time range, in Grafana's words ("now-90d"), and how often an open page asks again ("1m")."""

    start: str
    end: str = "now"
    refresh: str = ""


@dataclass(frozen=True)
class Annotation:
    """Marks on the charts over time, a row of the answer each: columns title, text and tags."""

    name: str
    color: str
    query: str

    def to_dict(self) -> Json:
        target = {"refId": "Anno", "rawQuery": True, "resultFormat": "table", "query": self.query}
        look = {"name": self.name, "enable": True, "iconColor": self.color, "mappings": {}}
        look |= {"placement": "inControlsMenu"}  # the switch for it, which would take a menu's room
        return {**look, "datasource": DATASOURCE, "target": target}


@dataclass(frozen=True)
class Heading:
    """What names a dashboard. `uid` (at most 40 characters) is its address and must never change."""

    uid: str
    title: str
    description: str
    tags: Sequence[str] = ("metriclog",)


@dataclass(frozen=True)
class Dashboard:
    """A whole dashboard: first the panels without a heading, then the sections. `links` stand at its top."""

    heading: Heading
    time: TimeRange
    variables: Sequence[Variable]
    panels: Sequence[Panel]
    sections: Sequence[Section] = ()
    links: Sequence[Link] = ()
    annotations: Sequence[Annotation] = ()

    @property
    def uid(self) -> str:
        return self.heading.uid

    def to_dict(self) -> Json:
        return {
            "uid": self.heading.uid,
            "title": self.heading.title,
            "description": self.heading.description,
            "tags": list(self.heading.tags),
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "timezone": "browser",
            "time": {"from": self.time.start, "to": self.time.end},
            "refresh": self.time.refresh,
            "annotations": {"list": [annotation.to_dict() for annotation in self.annotations]},
            "links": [_link_at_the_top(link) for link in self.links],
            "templating": {"list": [variable.to_dict() for variable in self.variables]},
            "panels": _numbered(self.panels, self.sections),
        }

    def to_json(self) -> str:
        """The text of the dashboard file: keys sorted, one trailing newline."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _link_at_the_top(link: Link) -> Json:
    """It keeps the time range, and of the variables those that its url names."""
    fixed = {"type": "link", "icon": "dashboard", "tags": [], "asDropdown": False, "targetBlank": False}
    return {**link.to_dict(), **fixed, "tooltip": "", "keepTime": True, "includeVars": False}


def _numbered(panels: Sequence[Panel], sections: Sequence[Section]) -> list[Json]:
    """All panels with their ids and places, a heading before each section."""
    ids = itertools.count(1)
    top = 0

    def placed(panels: Sequence[Panel]) -> list[Json]:
        nonlocal top
        positions = lay_out(panels, top)
        top = max((position["y"] + position["h"] for position in positions), default=top)
        return [panel.to_dict(next(ids), position) for panel, position in zip(panels, positions, strict=True)]

    made = placed(panels)
    for section in sections:
        place = {"x": 0, "y": top, "w": GRID_COLUMNS, "h": 1}
        row: Json = {"id": next(ids), "type": "row", "title": section.title, "gridPos": place}
        top += 1
        inside = placed(section.panels)
        made.append({**row, "collapsed": section.folded, "panels": inside if section.folded else []})
        made += [] if section.folded else inside
    return made
