"""The runs of this process as they are shown: while they go on, and what was last known of those that have ended."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from metriclog import live
from metriclog.divergence import Finding
from metriclog.identity import Identity
from metriclog.live import Latest, Snapshot, Source

if TYPE_CHECKING:
    from metriclog.settings import Settings

MOST_ENDED = 100


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that has ended. Its process still lives, and can say so."""

    last: Snapshot

    def snapshot(self) -> Snapshot:
        """As it was, told now."""
        return replace(self.last, now_ns=time.time_ns())


Newest = tuple[Mapping[str, Latest], int | None, tuple[Finding, ...]]  # values, the time of the newest, what fires


def snapshot(who: Identity, status: str, steps: int, newest: Newest, stats: Mapping[str, Any]) -> Snapshot:
    """One process of a run, now."""
    tags = dict(who.tags)
    metrics, last_log_ns, firing = newest
    return Snapshot(
        experiment=who.experiment,
        run=who.run_id,
        rank="" if who.rank is None else str(who.rank),
        model=tags.get("model", ""),
        dataset=tags.get("dataset", ""),
        host=os.uname().nodename,
        attempt=who.attempt,
        status=status,
        started_ns=who.started_ns,
        now_ns=time.time_ns(),
        steps=steps,
        last_log_ns=last_log_ns,
        metrics=metrics,
        stats=stats,
        firing=firing,
    )


def begin(source: Source, settings: Settings) -> None:
    """Show a run from now on, to Prometheus too if the settings ask for it."""
    if source not in live.sources():
        live.add(source)
    if settings.prometheus_port is not None or settings.pushgateway_url:
        from metriclog import exposition  # prometheus_client: only who wants it pays

        exposition.expose(settings)


def end(source: Source) -> None:
    """Keep what a run shows now, and let go of the run; of very many the oldest are shown no more."""
    if source not in live.sources():
        return
    live.add(Ended(source.snapshot()))  # first: nobody may look in between and see neither
    live.remove(source)
    ended = [other for other in live.sources() if isinstance(other, Ended)]
    for other in ended[:-MOST_ENDED]:
        live.remove(other)
    exposition = sys.modules.get("metriclog.exposition")
    if exposition is not None:
        exposition.ended()
