"""Reading back: runs and curves as DataFrames, from a journal or from a server, in the same shape. Needs pandas.

from metriclog import reader
stored = reader.open_journal()            # or reader.open_server()
stored.runs()                             # one row a run
stored.curve("mlp-lr0.1-k3f9q", "train/loss")
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from metriclog import directory, influxql
from metriclog.errors import MissingPackageError, RunNotFoundError
from metriclog.identity import SILENT_S
from metriclog.points import Point, from_nonfinite_code, parse_line
from metriclog.replay import JournalReader, owner_is_alive
from metriclog.segments import LINES, Entry, Text, Values
from metriclog.settings import Settings
from metriclog.transport import Transport

try:
    import pandas as pd
except ImportError as error:
    raise MissingPackageError('reading curves needs pandas: pip install "metriclog[reader]"') from error

_BATCH = 100_000
_PAGE_ROWS = 200_000
CURVE_COLUMNS = ("time", "step", "value", "elapsed", "model", "dataset", "rank")
RUN_COLUMNS = ("experiment", "run", "status", "started", "ended", "steps", "attempt", "params")


class Reader(Protocol):
    """What a journal and a server both answer."""

    def runs(self, experiment: str | None = None) -> pd.DataFrame:
        """One row a run, oldest first: experiment, run, status, started, ended (UTC), steps (the highest), attempt,
        params (a dict of float and str). A run that gives no sign of life is "killed"."""

    def metrics(self, run: str) -> list[str]:
        """Names of the metrics a run has, sorted. Raises `RunNotFoundError`."""

    def curve(self, run: str, metric: str) -> pd.DataFrame:
        """Every point of a metric in the order of time: time (UTC, ns), step, value (NaN and ±Inf as logged),
        elapsed (ms since the run began), model, dataset, rank (text or None). Raises `RunNotFoundError`."""


def open_journal(path: Path | str | None = None) -> Reader:
    """Read the journals in a directory; default METRICLOG_DIR. Works without any server, also beside a live run."""
    return _Journal(Path(path) if path is not None else Settings.load().dir)


def open_server(settings: Settings | None = None) -> Reader:
    """Read from the configured server. Raises `SettingsError` without one; its methods `ServerError`, `QueryError`."""
    settings = settings or Settings.load()
    settings.check_online()
    return _Server(Transport(settings))


class _Journal:
    def __init__(self, root: Path) -> None:
        self._root = root

    def runs(self, experiment: str | None = None) -> pd.DataFrame:
        states: dict[str, dict[str, Any]] = {}
        for path in directory.process_directories(self._root):
            for point in _points(path):
                run = point.tags["run"]
                if point.measurement == "runs":
                    fields = {**point.fields, "experiment": point.tags["experiment"], "alive": owner_is_alive(path)}
                    states.setdefault(run, {"params": {}}).update(fields)
                elif point.measurement == "params":
                    value = point.fields.get("number", point.fields.get("text"))
                    states.setdefault(run, {"params": {}})["params"][point.tags["param"]] = value
        rows = []
        for run, state in states.items():
            if "status" in state and experiment in (None, state["experiment"]):
                status = "killed" if state["status"] == "running" and not state["alive"] else state["status"]
                rows.append({**state, "run": run, "status": status})
        return _runs_frame(rows)

    def metrics(self, run: str) -> list[str]:
        return sorted({name for entry in self._values(run) for name in entry.shape.metrics})

    def curve(self, run: str, metric: str) -> pd.DataFrame:
        rows: list[tuple[Any, ...]] = []
        for entry in self._values(run):
            if metric in entry.shape.metrics:
                tags = dict(entry.shape.tags)
                extra = (tags.get("model"), tags.get("dataset"), tags.get("rank"))
                column = 2 + entry.shape.metrics.index(metric)
                rows += [(row[0], row[1], row[column], *extra) for row in entry.rows]
        started_ns = self._started_ns(run)
        rows.sort(key=lambda row: int(row[0]))
        return _curve_frame([(row[0], row[1], row[2], (row[0] - started_ns) // 1_000_000, *row[3:]) for row in rows])

    def _values(self, run: str) -> Iterator[Values]:
        paths = directory.process_directories(self._root, directory.check_run_id(run))
        if not paths:
            raise RunNotFoundError(f"run {run!r} is not in {self._root}")
        for path in paths:
            for entry in _entries(path):
                if isinstance(entry, Values):
                    yield entry

    def _started_ns(self, run: str) -> int:
        metas = map(directory.read_meta, directory.process_directories(self._root, run))
        return min((int(meta["started_ns"]) for meta in metas if meta), default=0)


class _Server:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def runs(self, experiment: str | None = None) -> pd.DataFrame:
        params: dict[str, dict[str, Any]] = {}
        for series in self._transport.query(influxql.params(experiment=experiment)):
            for row in _rows(series):
                value = row["number"] if row["number"] is not None else row["text"]
                params.setdefault(row["run"], {})[row["param"]] = value
        rows = []
        for series in self._transport.query(influxql.runs(experiment)):
            for row in _rows(series):
                silent = row["status"] == "running" and time.time() - row["ended"] / 1000 > SILENT_S
                status = "killed" if silent else row["status"]
                rows.append({**row, "status": status, "params": params.get(row["run"], {})})
        return _runs_frame(rows)

    def metrics(self, run: str) -> list[str]:
        series = self._transport.query(influxql.metric_names(run))
        names = sorted(row["value"] for one in series for row in _rows(one))
        if not names:
            self._check_run(run)
        return names

    def curve(self, run: str, metric: str) -> pd.DataFrame:
        rows: list[tuple[Any, ...]] = []
        after_ns: int | None = None
        while True:
            query = influxql.curve(run, metric, after_time_ns=after_ns, limit=_PAGE_ROWS)
            page = [row for series in self._transport.query(query) for row in _rows(series)]
            full = len(page) >= _PAGE_ROWS
            if full and page[0]["time"] != page[-1]["time"]:
                # Ranks can share an instant: the last one may be cut, so it is read again with the next page.
                page = [row for row in page if row["time"] != page[-1]["time"]]
            rows += [_curve_row(row) for row in page]
            if not full:
                break
            after_ns = page[-1]["time"]
        if not rows:
            self._check_run(run)
        return _curve_frame(rows)

    def _check_run(self, run: str) -> None:
        frame = self.runs()
        if run not in set(frame["run"]):
            raise RunNotFoundError(f"run {run!r} is not on {self._transport.address}")


def _entries(path: Path) -> Iterator[Entry]:
    source = JournalReader(path)
    try:
        while found := source.read(_BATCH):
            yield from (entry for _, entry in found)
    finally:
        source.close()


def _points(path: Path) -> Iterator[Point]:
    for entry in _entries(path):
        if isinstance(entry, Text) and entry.kind == LINES:
            yield from map(parse_line, entry.body.decode().split("\n"))


def _rows(series: dict[str, Any]) -> Iterator[dict[str, Any]]:
    tags, columns = series.get("tags") or {}, series["columns"]
    for values in series["values"]:
        yield {**tags, **dict(zip(columns, values, strict=True))}


def _curve_row(row: dict[str, Any]) -> tuple[Any, ...]:
    value = row["value"] if row["value"] is not None else from_nonfinite_code(int(row["nonfinite"] or 0))
    tags = [row.get(name) or None for name in ("model", "dataset", "rank")]
    return (row["time"], row["step"], value, row["elapsed"], *tags)


def _curve_frame(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(CURVE_COLUMNS))
    kinds: dict[str, Any] = {"step": "int64", "value": "float64", "elapsed": "int64"}
    frame = frame.astype(kinds | dict.fromkeys(CURVE_COLUMNS[4:], "object"))
    frame["time"] = pd.to_datetime(frame["time"].astype("int64"), unit="ns", utc=True)
    return frame


def _runs_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    rows = sorted(rows, key=lambda row: (row["started"], row["run"]))
    frame = pd.DataFrame([{name: row[name] for name in RUN_COLUMNS} for row in rows], columns=list(RUN_COLUMNS))
    for name in ("started", "ended"):
        frame[name] = pd.to_datetime(frame[name].astype("int64"), unit="ms", utc=True)
    return frame
