"""What Grafana's back end makes of an InfluxDB answer: data frames, as `/api/ds/query` sends them to the page.

After `pkg/tsdb/influxdb/influxql/buffered` of Grafana 12.3; tests/screens proves it against a real Grafana.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Json = dict[str, Any]

_KINDS = {str: ("string", "string"), float: ("number", "float64"), bool: ("boolean", "bool")}


def frames_of(
    target: Mapping[str, Any], series: Sequence[Mapping[str, Any]], *, tags_reversed: bool = False
) -> list[Json]:
    """The frames of one panel target; `series` is what InfluxDB answered, times in ms.

    Grafana puts the columns of several tags into any order, hence `tags_reversed`.
    """
    if not series:
        return []
    if target["resultFormat"] == "table":
        return [_table(target, series, tags_reversed)]
    return [
        _line(target, one, index, column)
        for one in series
        for index, column in enumerate(one["columns"])
        if column != "time"
    ]


def _table(target: Mapping[str, Any], series: Sequence[Mapping[str, Any]], tags_reversed: bool) -> Json:
    """All series below each other, their tags as columns."""
    columns, rows = series[0]["columns"], [row for one in series for row in one["values"]]
    names = list(series[0].get("tags", {}))
    fields = [_time(rows)] if columns[0] == "time" else [_named(columns[0], [row[0] for row in rows])]
    for name in reversed(names) if tags_reversed else names:
        fields.append(_named(name, [one["tags"][name] for one in series for _ in one["values"]]))
    fields += [_named(columns[index], [row[index] for row in rows]) for index in range(1, len(columns))]
    return _frame(target["refId"], series[0].get("name", ""), fields)


def _line(target: Mapping[str, Any], one: Mapping[str, Any], index: int, column: str) -> Json:
    """One column of one series over time, its tags as labels."""
    tags = one.get("tags", {})
    name = _alias(target["alias"], one, column) if target.get("alias") else _long_name(one, column)
    value = _field("Value", [row[index] for row in one["values"]], {"displayNameFromDS": name})
    return _frame(target["refId"], name, [_time(one["values"]), {**value, **({"labels": tags} if tags else {})}])


def _long_name(one: Mapping[str, Any], column: str) -> str:
    tags = ", ".join(f"{key}: {value}" for key, value in one.get("tags", {}).items())
    return f"{one['name']}.{column}" + (f" {{ {tags} }}" if tags else "")


def _alias(alias: str, one: Mapping[str, Any], column: str) -> str:
    known = {"m": one["name"], "measurement": one["name"], "col": column}
    known |= {f"tag_{key}": value for key, value in one.get("tags", {}).items()}
    return re.sub(r"\$(\w+)", lambda match: known.get(match[1], match[0]), alias)


def _time(rows: Iterable[Sequence[Any]]) -> Json:
    times = [row[0] for row in rows]
    return {"name": "Time", "type": "time", "typeInfo": {"frame": "time.Time"}, "values": times}


def _named(name: str, values: list[Any]) -> Json:
    return _field(name, values, {"displayNameFromDS": name})


def _field(name: str, values: list[Any], config: Json) -> Json:
    """A column of one kind, with gaps. Raises ValueError for several kinds, of which Grafana makes a wrong column."""
    kinds = {float if type(value) is int else type(value) for value in values if value is not None}
    if len(kinds) > 1:
        raise ValueError(f"column {name} holds {kinds}")
    kind, go = _KINDS[next(iter(kinds), float)]
    return {"name": name, "type": kind, "typeInfo": {"frame": go, "nullable": True}, "config": config, "values": values}


def _frame(ref_id: str, name: str, fields: list[Json]) -> Json:
    schema = [{key: value for key, value in field.items() if key != "values"} for field in fields]
    return {
        "schema": {"name": name, "refId": ref_id, "fields": schema},
        "data": {"values": [field["values"] for field in fields]},
    }
