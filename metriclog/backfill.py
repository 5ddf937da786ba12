"""Roll-ups and summaries for runs that lack them: shipped by an older metriclog, imported, or deleted since.

They are made anew from every point of a run, read back from the server series by series or from the journals. Twice is
harmless: the same points make the same roll-ups.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from metriclog import influxql
from metriclog.derived import streams, whole
from metriclog.directory import process_directories
from metriclog.errors import JournalError
from metriclog.identity import SILENT_S
from metriclog.points import RUN_ID, from_nonfinite_code
from metriclog.replay import owner_is_alive
from metriclog.rollups import Rollups
from metriclog.segments import Row, Shape, Values
from metriclog.sender import Control, Sender, Target

Source = Literal["server", "journal"]
PAGE_POINTS = 200_000  # of one series in one query
POST_LINES = 20_000
PATIENCE_S = 30.0  # without a yes
SUMMARY = b"summary,"


class Server(Target, Protocol):
    """What this room needs of a transport."""

    def query(self, text: str) -> list[dict[str, Any]]:
        """Series of one InfluxQL statement, times in ns."""


@dataclass(slots=True)
class Backfilled:
    """What was written for a run, in points; `note`: why nothing was, or not all; `failed`: whether that is trouble."""

    run: str
    rollups: int = 0
    summaries: int = 0
    refused: int = 0
    note: str | None = None
    failed: bool = False


class Backfill:
    """Goes through runs one by one. What the server answers to a query or a post in the end, it raises."""

    def __init__(self, root: Path, server: Server, source: Source) -> None:
        self._root, self._server = root, server
        self._sender = Sender(server, Control(give_up_after_s=PATIENCE_S))
        self._stored = _FromServer(server) if source == "server" else _FromJournal(root)

    def run(self, chosen: Sequence[str] = (), *, everything: bool = False) -> Iterator[Backfilled]:
        """All runs that lack them, or these; `everything`: also those that have them."""
        found, done = self._stored.runs(), set(_runs_in(self._server, "summary"))
        heard_s = _heard(self._server)
        for run in chosen or sorted(found):
            if run not in found:
                yield Backfilled(run, note=f"it has no points {self._stored.where}", failed=True)
            elif self._is_alive(run, heard_s.get(run, 0.0)):
                yield Backfilled(run, note="it goes on, and its roll-ups with it")
            elif everything or run not in done:
                yield self._fill(run)
            elif chosen:
                yield Backfilled(run, note="it has them; --all makes them again")

    def _is_alive(self, run: str, heard_s: float) -> bool:
        here = RUN_ID.fullmatch(run) and any(map(owner_is_alive, process_directories(self._root, run)))
        return bool(here) or time.time() - heard_s < SILENT_S

    def _fill(self, run: str) -> Backfilled:
        """The summaries come last: if they are there, all is there."""
        done, waiting, newest = Backfilled(run), list[bytes](), dict[bytes, bytes]()
        try:
            for lines in self._stored.lines(run):
                newest |= {line[: line.rfind(b" last")]: line for line in lines if line.startswith(SUMMARY)}
                waiting += (line for line in lines if not line.startswith(SUMMARY))
                while len(waiting) >= POST_LINES:
                    done.rollups += self._post(waiting[:POST_LINES], done)
                    del waiting[:POST_LINES]
            done.rollups += self._post(waiting, done)
            done.summaries += self._post([*newest.values()], done)
        except (JournalError, OSError) as error:
            done.note, done.failed = f"{error}; try --from server", True
        return done

    def _post(self, lines: Sequence[bytes], done: Backfilled) -> int:
        """How many the server took."""
        refused = self._sender.deliver(lines)
        if refused:
            done.note, done.failed = f"the server refused some: {refused[0][1]}", True
            done.refused += len(refused)
        return len(lines) - len(refused)


class _FromJournal:
    where = "in the journals"

    def __init__(self, root: Path) -> None:
        self._root = root

    def runs(self) -> set[str]:
        return {path.parent.name for path in process_directories(self._root)}

    def lines(self, run: str) -> Iterator[list[bytes]]:
        for stream in streams(process_directories(self._root, run)):
            yield from whole(stream)


class _FromServer:
    where = "on the server"

    def __init__(self, server: Server) -> None:
        self._server = server

    def runs(self) -> set[str]:
        return set(_runs_in(self._server, "metrics"))

    def lines(self, run: str) -> Iterator[list[bytes]]:
        for one in self._server.query(influxql.series_of_run("metrics", run)):
            yield from self._lines_of_series(one["tags"])

    def _lines_of_series(self, tags: Mapping[str, str]) -> Iterator[list[bytes]]:
        own = tuple(sorted((name, value) for name, value in tags.items() if value and name != "metric"))
        shape = Shape(0, (tags["metric"],), own)
        rollups, after_ns = Rollups(0), -1
        while answer := self._server.query(influxql.page_of_series("metrics", tags, after_ns, PAGE_POINTS)):
            found = answer[0]["values"]
            after_ns = found[-1][0]
            rollups = Rollups.restore(rollups.state(), _started_ns(found))
            yield rollups.add([Values(shape, list(_rows(found)), 0, 0)])
        yield rollups.finish()


def _rows(found: Sequence[Sequence[Any]]) -> Iterator[Row]:
    """Points as a journal has them; others may have written points that say less."""
    for time_ns, value, step, _, code in found:
        if step is not None and (value is not None or code is not None):
            yield time_ns, step, float(value) if value is not None else from_nonfinite_code(code)


def _started_ns(found: Sequence[Sequence[Any]]) -> int:
    """A start of the run from which every `elapsed` comes out as it is: they are cut to whole milliseconds."""
    starts = [int(time_ns - elapsed * 1_000_000) for time_ns, _, _, elapsed, _ in found if elapsed is not None]
    return min(starts) if starts else int(found[0][0])


def _runs_in(server: Server, measurement: str) -> Iterator[str]:
    for one in server.query(influxql.runs_in(measurement)):
        yield from (row[one["columns"].index("value")] for row in one["values"])


def _heard(server: Server) -> dict[str, float]:
    """When each run that is said to go on gave its last sign of life, in seconds since 1970."""
    heard = {}
    for one in server.query(influxql.runs()):
        for values in one["values"]:
            row = dict(zip(one["columns"], values, strict=True))
            if row["status"] == "running" and row["ended"] is not None:
                heard[one["tags"]["run"]] = row["ended"] / 1000
    return heard
