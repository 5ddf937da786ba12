"""Who logs, and the points that tell a run's state: what stays the same while a process lives. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from metriclog.levels import resolution
from metriclog.points import Field, Tags, encode_line

SILENT_S = 60.0  # a run that is "running" but gave no sign for so long is taken for killed: four heartbeats missed


@dataclass(frozen=True, slots=True)
class Identity:
    """One process of one run."""

    experiment: str
    run_id: str
    rank: int | None
    tags: Tags  # experiment, run, model, dataset, rank and user tags: the tag set of every metric
    mode: str
    root: Path
    attempt: int
    started_ns: int

    @property
    def leads(self) -> bool:
        """Whether this process tells the run's state: of several ranks only the first does."""
        return self.rank in (None, 0)

    def meta(self, *, child: bool) -> dict[str, Any]:
        """The META record of this process' segments."""
        return {
            "experiment": self.experiment,
            "run": self.run_id,
            "rank": self.rank,
            "mode": self.mode,
            "attempt": self.attempt,
            "started_ns": self.started_ns,
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "child": child,
        }

    def run_line(self, now_ns: int, status: str, steps: int) -> str:
        """The run's state as a point of `runs`: every field each time.

        `ended` is the time of this line while the run goes on: the best guess if no other line follows.
        """
        running = status == "running"
        now_ms = now_ns // 1_000_000
        fields: dict[str, Field] = {
            "running": int(running),
            "status": status,
            "started": self.started_ns // 1_000_000,
            "ended": now_ms,
            "to": "now" if running else str(now_ms + 1),  # the range must hold this very point
            "steps": steps,
            "resolution": resolution(steps),
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "attempt": self.attempt,
        }
        return encode_line("runs", (("experiment", self.experiment), ("run", self.run_id)), fields, now_ns)

    def delivery_line(self, now_ns: int, stats: Mapping[str, Any]) -> str:
        """How delivery goes in this process, as a point of `delivery`; with the rank where there are ranks."""
        fields: dict[str, Field] = {
            "pending_points": stats["pending"],
            "pending_bytes": stats["pending_bytes"],
            **{name: stats[name] for name in ("delivered", "retried", "quarantined", "dropped")},
            "lag_s": float(stats["lag_s"]),
        }
        rank = {} if self.rank is None else {"rank": str(self.rank)}
        tags = {"experiment": self.experiment, "run": self.run_id, "host": os.uname().nodename, **rank}
        return encode_line("delivery", tags.items(), fields, now_ns)

    def event_line(
        self,
        now_ns: int,
        kind: str,
        fields: Mapping[str, Field],
        step: int,
        metric: str | None = None,
    ) -> str:
        """A point of `events`; `fields` holds title, text and level, and what else is known.

        `step` and `elapsed` are always there: an event without them blanks a chart over steps.
        """
        elapsed_ms = (now_ns - self.started_ns) // 1_000_000
        whole: dict[str, Field] = {"count": 1, **fields, "step": step, "elapsed": elapsed_ms}
        of = () if metric is None else (("metric", metric),)
        tags = (("experiment", self.experiment), ("run", self.run_id), ("kind", kind), *of)
        return encode_line("events", tags, whole, now_ns)


def address_in_grafana(base: str, experiment: str, run_id: str, since_ms: int, until: str) -> str:
    """The Run dashboard of a run in a range of time; `until` is "now" or epoch ms."""
    query = f"var-experiment={quote(experiment, safe='')}&var-run={quote(run_id, safe='')}"
    return f"{base}/d/metriclog-run?{query}&from={since_ms}&to={until}"
