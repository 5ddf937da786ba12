"""A stand-in for the reading side of a server: points on a shelf that answer the InfluxQL of `metriclog verify`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from metriclog import influxql
from metriclog.points import Field, Point

Series = tuple[str, tuple[tuple[str, str], ...]]


class Shelf:
    """Holds points by series and time stamp; put them there, alter them, take them away."""

    target = "shelf"

    def __init__(self, points: Iterable[Point] = ()) -> None:
        self.series: dict[Series, dict[int, dict[str, Field]]] = {}
        self.asked: list[str] = []
        self.before: Callable[[str], None] = lambda _: None
        self.put(points)

    def put(self, points: Iterable[Point]) -> None:
        """Store points; a later one at the same place wins."""
        for point in points:
            key = point.measurement, tuple(sorted(point.tags.items()))
            self.series.setdefault(key, {})[point.time_ns] = dict(point.fields)

    def find(self, metric: str) -> dict[int, dict[str, Field]]:
        """Time stamp → fields of one metric, to change them."""
        return next(stamps for (_, tags), stamps in self.series.items() if ("metric", metric) in tags)

    def query(self, text: str) -> list[dict[str, Any]]:
        """Every series that a text of `influxql` asks for, with JSON's habit of writing 2.0 as 2."""
        self.before(text)
        self.asked.append(text)
        found = re.search(r'FROM "(\w+)"', text)
        assert found
        tags = dict(re.findall(r"\"(\w+)\" = '([^']*)'", text))
        names = () if "count(" in text else influxql.FIELDS[found[1]]
        answer = []
        for (measurement, given), stamps in self.series.items():
            hit = measurement == found[1] and all(dict(given).get(name, "") == value for name, value in tags.items())
            times = _within(text, stamps) if hit else []
            rows = [[time, *(_as_json(stamps[time].get(name)) for name in names)] for time in times]
            if rows:
                answer.append({"name": measurement, "tags": {"rank": "", **dict(given)}, "values": rows})
        return answer


def _within(text: str, stamps: dict[int, Any]) -> list[int]:
    after, limit = re.search(r"time > (-?\d+)", text), re.search(r"LIMIT (\d+)", text)
    times = sorted(time for time in stamps if not after or time > int(after[1]))
    return times[: int(limit[1])] if limit else times


def _as_json(value: Field | None) -> Field | None:
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e21 and str(value) != "-0.0"
    return int(value) if whole and value is not None else value
