"""The other ranks of a run, read by the first one for the only rule that needs them all: ranks that drift apart.

Each rank watches its own values itself. Here the journals of the live ranks of the same run and attempt below the same
METRICLOG_DIR are read beside them: of ranks elsewhere nothing is known.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path

from metriclog.directory import process_directories, read_meta
from metriclog.divergence import Detector, Finding, RankSpread
from metriclog.errors import JournalError
from metriclog.identity import Identity
from metriclog.replay import JournalReader, owner_is_alive
from metriclog.segments import Values

_Value = tuple[int, str, str, float]  # step, rank, metric, value

MOST_PEERS = 64
MOST_POINTS = 10_000  # of one rank, read at once
LOOK_EVERY_S = 10.0  # for ranks that have begun or ended
SHARE = 0.02  # of the time: with many ranks of short steps, reading them all would cost the training


class Peers:
    """The ranks of one run, this one included. Not for several threads."""

    def __init__(
        self,
        who: Identity,
        spread_of: Callable[[str], RankSpread | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._who, self._spread_of, self._clock = who, spread_of, clock
        self._detector = Detector(default=False)
        self._known: dict[str, bool] = {}  # metrics, and whether they are compared
        self._readers: dict[Path, JournalReader] = {}
        self._passed_over: set[Path] = set()
        self._look_at_s = self._read_at_s = clock()

    def follow(self) -> Iterator[Finding]:
        """Read what has come since; what is apart. `OSError` and `JournalError` of one rank cost that rank."""
        begin_s = self._clock()
        if begin_s < self._read_at_s:
            return
        if begin_s >= self._look_at_s:
            self._look_at_s = begin_s + LOOK_EVERY_S
            self._look()
        if len(self._readers) > 1:
            # In the order of steps: a rule that compares ranks waits for the others a few steps only.
            for step, rank, metric, value in sorted(self._read_all(), key=itemgetter(0)):
                found = self._detector.add(metric, rank, step, value)
                yield from (finding for finding in found if finding.rule == RankSpread.name)
        self._read_at_s = self._clock() + (self._clock() - begin_s) / SHARE

    def close(self) -> None:
        """Close the files."""
        for path in list(self._readers):
            self._forget(path)

    def _look(self) -> None:
        """Take up ranks that have begun, let go of those that have ended."""
        found = process_directories(self._who.root, self._who.run_id)
        for path in self._readers.keys() - {path for path in found if owner_is_alive(path)}:
            self._forget(path)
        for path in found:
            if len(self._readers) < MOST_PEERS and path not in self._readers and path not in self._passed_over:
                self._take_up(path)

    def _take_up(self, path: Path) -> None:
        meta = read_meta(path)
        if meta is None:  # about to begin
            return
        same = meta.get("attempt") == self._who.attempt and meta.get("rank") is not None and not meta.get("child")
        if same and owner_is_alive(path):
            self._readers[path] = JournalReader(path)
        else:
            self._passed_over.add(path)

    def _forget(self, path: Path) -> None:
        self._passed_over.add(path)
        with contextlib.suppress(OSError):
            self._readers.pop(path).close()

    def _read_all(self) -> Iterator[_Value]:
        for path, reader in list(self._readers.items()):
            try:
                for _, entry in reader.read(MOST_POINTS):
                    if isinstance(entry, Values):
                        yield from self._values(entry)
            except (OSError, JournalError):
                self._forget(path)

    def _values(self, entry: Values) -> Iterator[_Value]:
        rank = dict(entry.shape.tags).get("rank", "")
        places = [it for it in enumerate(entry.shape.metrics, 2) if self._compares(it[1])]
        for row in entry.rows if places else ():
            for place, metric in places:
                yield row[1], rank, metric, row[place]

    def _compares(self, metric: str) -> bool:
        """Whether ranks are compared in a metric; decided when it first appears."""
        if metric not in self._known:
            rule = self._spread_of(metric)
            self._known[metric] = rule is not None
            if rule is not None:
                self._detector.watch(metric, rule)
        return self._known[metric]
