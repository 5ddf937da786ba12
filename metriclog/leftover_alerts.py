"""Alerts that dead processes left: what could not be posted, and what a killed one had no time to find."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

from metriclog.directory import process_directories, read_meta
from metriclog.errors import JournalError
from metriclog.follower import Event
from metriclog.metric_names import kind_of
from metriclog.points import Field, Point, parse_line
from metriclog.posting import LOCK, Poster, Webhook, is_critical, load_cursor
from metriclog.replay import JournalReader, owner_is_alive
from metriclog.segments import LINES, Text, Values, position_of
from metriclog.sender import Control
from metriclog.settings import Settings
from metriclog.shipper import shipping_lock
from metriclog.watching import shown

READ_POINTS = 10_000


def post_leftovers(root: Path, hook: Webhook, control: Control, settings: Settings) -> int:
    """Post what dead processes below `root` left; how many journals could not be read. Raises when told to stop."""
    unread = 0
    for directory in process_directories(root):
        if load_cursor(directory) is None or owner_is_alive(directory):
            continue
        try:
            with shipping_lock(directory, LOCK) as mine:
                if mine:
                    _post_left(directory, hook, control, settings)
        except (OSError, JournalError) as error:
            unread += 1
            control.warn("alerts left in %s cannot be read: %s", directory, error)
    return unread


def _post_left(directory: Path, hook: Webhook, control: Control, settings: Settings) -> None:
    poster, unsaid = Poster(directory, hook, control, settings), _Unsaid()
    with contextlib.closing(JournalReader(directory, poster.position)) as reader:
        while entries := reader.read(READ_POINTS):
            for number, entry in entries:
                if isinstance(entry, Values):
                    unsaid.take(entry)
                elif isinstance(entry, Text) and entry.kind == LINES:
                    _post_lines(entry, position_of(number, entry.end), poster, unsaid)
        if poster.cursor.watch and unsaid.values:
            poster.post_alert(poster.alert(unsaid.event(read_meta(directory) or {})), by_anybody=True)
        poster.move(reader.position, done=True)


def _post_lines(entry: Text, position: int, poster: Poster, unsaid: _Unsaid) -> None:
    for line in entry.body.decode("utf-8", "replace").split("\n"):
        unsaid.hear(line)
        if is_critical(line):
            poster.post(Event(position, line))


class _Unsaid:
    """Values that were not finite and of which no event speaks: the process was killed before it had looked.

    Not of gradient norms, where one alone may be a loss scaler at work.
    """

    def __init__(self) -> None:
        self.values: dict[str, tuple[int, int, float]] = {}  # by metric: time stamp, step, value of the first
        self._said: set[str] = set()

    def take(self, entry: Values) -> None:
        """Values of one shape."""
        for row in [row for row in entry.rows if not math.isfinite(sum(row))]:
            for metric, value in zip(entry.shape.metrics, row[2:], strict=True):
                odd = not math.isfinite(value) and metric not in self._said
                if odd and metric not in self.values and kind_of(metric) != "gradient_norm":
                    self.values[metric] = row[0], row[1], value

    def hear(self, line: str) -> None:
        """A line of another kind."""
        if line.startswith("events,") and "kind=nonfinite" in line:
            with contextlib.suppress(ValueError):
                metric = parse_line(line).tags.get("metric", "")
                self._said.add(metric)
                self.values.pop(metric, None)

    def event(self, meta: dict[str, Any]) -> Point:
        """One event for all: a loss if there is one among them, else the first."""
        metric = min(self.values, key=lambda name: (kind_of(name) != "loss", self.values[name][0]))
        time_ns, step, value = self.values[metric]
        more = f"; {len(self.values) - 1} other metrics are not finite either" if len(self.values) > 1 else ""
        text = f"step {step}, found in what a killed process had logged{more}"
        fields: dict[str, Field] = {"title": f"{metric} is {shown(value)}", "text": text, "level": "critical"}
        fields |= {"rule": "nonfinite", "step": step, "window": 1, "count": 1}
        tags = {"experiment": str(meta.get("experiment")), "run": str(meta.get("run"))}
        return Point("events", {**tags, "kind": "nonfinite", "metric": metric}, fields, time_ns)
