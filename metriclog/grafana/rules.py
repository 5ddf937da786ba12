"""Grafana's alert rule files: rules, the queries and expressions they are made of, as YAML. Knows nothing of runs.

Every text is quoted: unquoted, Grafana cuts a query at a comma without a word. Every rule says what no data and an
error mean: by default both fire.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

CONDITION = "FIRES"
_EXPRESSIONS = "__expr__"


@dataclass(frozen=True)
class Number:
    """A number a series out of a query over the last `seconds`, or those before the last `until_s`.

    In math it is `$NAME`, in texts `$values.NAME.Value`.
    """

    name: str
    query: str
    seconds: int
    until_s: int = 0

    def to_list(self, datasource: str) -> list[dict[str, Any]]:
        asked = f"{self.name.lower()}_asked"
        model = {"refId": asked, "rawQuery": True, "resultFormat": "time_series", "query": self.query}
        time = {"from": self.seconds, "to": self.until_s}
        # A series has one row; without a reduction Grafana takes none.
        return [
            {"refId": asked, "datasourceUid": datasource, "relativeTimeRange": time, "model": model},
            _expression(self.name, "reduce", asked, reducer="last", settings={"mode": "dropNN"}),
        ]


@dataclass(frozen=True)
class Rule:
    """One alert rule. It fires for each series for which `fires`, in Grafana's math, is not 0 for `for_s` seconds.

    `steps` are results by name that `fires` and the texts use. `on_error`: what a query that fails means. `panel`:
    dashboard and panel that show it.
    """

    uid: str
    title: str
    numbers: Sequence[Number]
    fires: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    steps: Mapping[str, str] = field(default_factory=dict)
    for_s: int = 0
    on_error: Literal["KeepLast", "Error"] = "KeepLast"
    panel: tuple[str, int] | None = None

    def to_dict(self, datasource: str) -> dict[str, Any]:
        """As Grafana's files have it."""
        data = [part for number in self.numbers for part in number.to_list(datasource)]
        math = {**self.steps, CONDITION: self.fires}
        data += [_expression(name, "math", expression) for name, expression in math.items()]
        shown = {} if self.panel is None else {"dashboardUid": self.panel[0], "panelId": self.panel[1]}
        return {
            "uid": self.uid,
            "title": self.title,
            "condition": CONDITION,
            "for": f"{self.for_s}s",
            "noDataState": "OK",
            "execErrState": self.on_error,
            **shown,
            "labels": dict(self.labels),
            "annotations": dict(self.annotations),
            "data": data,
        }


@dataclass(frozen=True)
class Group:
    """The rules of one file: evaluated together, every `interval_s` seconds, shown in one folder."""

    name: str
    folder: str
    datasource: str
    rules: Sequence[Rule]
    interval_s: int = 60

    def to_dict(self) -> dict[str, Any]:
        rules = [rule.to_dict(self.datasource) for rule in self.rules]
        head = {"orgId": 1, "name": self.name, "folder": self.folder, "interval": f"{self.interval_s}s"}
        return {"apiVersion": 1, "groups": [{**head, "rules": rules}]}

    def to_yaml(self, comment: str) -> str:
        """The text of the file, under a comment."""
        said = "".join(f"# {line}\n" for line in comment.splitlines())
        return said + "".join(line + "\n" for line in _yaml(self.to_dict()))


def _expression(name: str, kind: str, expression: str, **more: Any) -> dict[str, Any]:
    model = {"refId": name, "type": kind, "expression": expression, **more}
    return {"refId": name, "datasourceUid": _EXPRESSIONS, "model": model}


def _yaml(node: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from _yaml(value, indent + "  ")
        elif isinstance(value, list):
            yield f"{indent}{key}:"
            for entry in value:
                first, *others = _yaml(entry, indent + "    ")
                yield f"{indent}  - {first.lstrip()}"
                yield from others
        else:
            yield f"{indent}{key}: {_scalar(value)}"


def _scalar(value: str | int) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if not value.isprintable():
        raise ValueError(f"{value!r} holds what a line of YAML cannot: write it in one line")
    return "'" + value.replace("'", "''") + "'"
