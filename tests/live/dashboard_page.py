"""A dashboard's page for tests of its queries: the menus as Grafana fills them, and what it then asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.dashboard_files import DASHBOARDS, panels_of
from tests.grafana_interpolation import Value
from tests.grafana_variables import Menus
from tests.live import dashboard_data as data
from tests.servers.api import Influx

Row = dict[str, Any]


class Page:
    """One dashboard as it is once loaded: its menus hold what the server has, or what was chosen."""

    def __init__(
        self, influx: Influx, name: str, range_ms: tuple[int, int] = (data.FROM_MS, data.TO_MS), /, **chosen: Value
    ) -> None:
        self._influx = influx
        self.dashboard = DASHBOARDS[f"metriclog/{name}.json"]
        self.menus = Menus(self.dashboard, self._rows, range_ms[0], range_ms[1], **chosen)

    def _rows(self, text: str) -> list[list[Any]]:
        return [row for one in self._series(text) for row in one["values"]]

    def _series(self, text: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._influx.query(text, epoch="ms")["results"][0].get("series", [])
        return found

    def ask(self, query: str, **scoped: Value) -> list[Row]:
        """The rows of a query, tags and columns merged; `scoped` is what a repeated panel stands for."""
        return [
            {**one.get("tags", {}), **dict(zip(one["columns"], row, strict=True))}
            for one in self._series(self.menus.interpolate(query, **scoped))
            for row in one["values"]
        ]

    def queries(self) -> Iterator[tuple[str, str]]:
        """Everything that the page asks once its menus are filled, by the panel's title and the query's name."""
        for panel in panels_of(self.dashboard):
            for target in panel["targets"]:
                yield f"{panel['title']}:{target['refId']}", target["query"]
        for annotation in self.dashboard["annotations"]["list"]:
            yield annotation["name"], annotation["target"]["query"]
