"""The conservation oracle: accepted = on the server + pending + quarantined + counted drops, point by point.

Accepted is what a load generator noted after `log()` had returned. The server is asked in InfluxQL, apart from
metriclog's own reader. The journal stands between the two: what was accepted must be in it, and what is in it must be
on the server, or beyond the ack, or in the quarantine file. What was derived from it is held apart, see `derivation`.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

from metriclog import directory, levels, testing
from metriclog.acks import load_ack
from metriclog.points import Field, Point, parse_line
from metriclog.replay import JournalReader
from metriclog.segments import LOSS, Text
from metriclog.settings import Settings
from metriclog.transport import Transport
from tests.servers.api import Influx

DERIVED = (*levels.MEASUREMENTS, "summary")
MEASUREMENTS = ("metrics", "runs", "params", "events", "delivery")
SLOT_NS = 64  # metriclog gives the lowest bits of a time stamp to the process

Key = tuple[str, tuple[tuple[str, str], ...], int]  # measurement, tags, time in ns
Stored = dict[Key, dict[str, Field]]


@dataclass(frozen=True, slots=True)
class Accepted:
    """One call of `log()` that returned, and the clock (ns) before and after it."""

    run: str
    step: int
    metrics: Mapping[str, float]
    before_ns: int
    after_ns: int


@dataclass(frozen=True, slots=True)
class Tally:
    """Points found: in all journals, on the server, beyond the acks, in quarantine.

    And what the journals say was dropped, and what was delivered and then deleted from them (gone).
    """

    journal: int
    server: int
    pending: int
    quarantined: int
    dropped: int = 0
    gone: int = 0


class Known(TypedDict, total=False):
    """What a test knows of its points beside the calls.

    `dropped`: points that the runs counted as dropped. `unreported`: how many points at most may be there although
    no call reported them: those of a call that was killed between writing and reporting. `foreign_run`: a run that
    the test itself wrote to the server. `wiped`: delivered points that the test itself deleted there. `left_out`: names
    of fields that the server cannot hold. `lines`: how many points beside metrics (states, events, parameters,
    delivery) the runs wrote, where some of these may be among the dropped.
    """

    dropped: int
    unreported: int
    foreign_run: str
    wiped: int
    left_out: frozenset[str]
    lines: int


def check_conservation(
    accepted: Iterable[Accepted],
    settings: Settings,
    influx: Influx | None,
    *,
    stats: Sequence[Mapping[str, Any]] = (),
    **known: Unpack[Known],
) -> Tally:
    """Assert that no point was lost, altered or invented; `influx` None: nothing can have reached a server.

    `stats`: of each process that logged, taken after its end: its counts, those of the journals and those found must
    be the same. `known`: see `Known`.
    """
    dropped, left_out = known.get("dropped", 0), known.get("left_out", frozenset())
    paths = directory.process_directories(settings.dir)
    journal = _stored(point for path in paths for point in testing.read_points(path))
    target = Transport(settings).target
    pending = {_key(point) for path in paths for point in testing.read_points(path, load_ack(path, target).position)}
    quarantined = {_key(point) for path in paths for point in _quarantined(path)}
    found, foreign = server_points(influx) if influx else {}, ("run", known.get("foreign_run"))
    there = {key: fields for key, fields in found.items() if foreign not in key[1]}
    server = {key: fields for key, fields in there.items() if key[0] not in DERIVED}

    counted, gone = _said_lost(paths)
    # What was delivered and then deleted from the journal is on the server, or in quarantine, and nowhere else.
    forgotten = {key: fields for key, fields in server.items() if key not in journal}
    if len(forgotten) + len(quarantined - journal.keys()) != gone:
        forgotten = {}
    logged = {key: {name: fields[name] for name in fields.keys() - left_out} for key, fields in journal.items()}
    logged |= forgotten
    altered = [key for key, fields in server.items() if logged.get(key) != fields]
    assert altered == [], f"{len(altered)} points on the server are not as they were logged: {altered[:3]}"
    lost = journal.keys() - server.keys() - pending - quarantined
    assert len(lost) == known.get("wiped", 0), f"{len(lost)} points are acknowledged but nowhere: {sorted(lost)[:3]}"
    both = [key for key in quarantined & server.keys() if server[key] == journal.get(key)]
    assert not both, f"{len(both)} points are on the server and in quarantine: {both[:3]}"
    _check_accepted(list(accepted), journal | forgotten, known)
    if influx is not None:
        from tests.faults.derivation import check_derived  # numpy: not for the programs that log

        check_derived(paths, target, there, forgotten, complete=not (pending or quarantined or lost))
    tally = Tally(len(journal), len(server), len(pending), len(quarantined), counted, gone)
    _check_counts(tally, stats, dropped)
    return tally


def _check_counts(tally: Tally, stats: Sequence[Mapping[str, Any]], dropped: int) -> None:
    if not stats:
        return
    counts = {name: sum(one[name] for one in stats) for name in ("accepted", "dropped", "quarantined", "pending")}
    assert counts["dropped"] == tally.dropped == dropped, f"{counts}, {tally}: dropped is {dropped}"
    assert counts["accepted"] == tally.journal + tally.gone + dropped, f"{counts}, {tally}"
    assert (counts["pending"], counts["quarantined"]) == (tally.pending, tally.quarantined), f"{counts}, {tally}"


def _said_lost(paths: Iterable[Path]) -> tuple[int, int]:
    """What the journals say was dropped, and what was delivered and then deleted from them."""
    said = [loss for path in paths for loss in _losses(path)]
    return sum(loss["dropped"] for loss in said), sum(loss.get("gone", 0) for loss in said)


def _losses(path: Path) -> Iterable[Mapping[str, int]]:
    with contextlib.closing(JournalReader(path)) as reader:
        while found := reader.read(100_000):
            yield from (entry.json() for _, entry in found if isinstance(entry, Text) and entry.kind == LOSS)


def server_points(influx: Influx) -> Stored:
    """Every point in the bucket."""
    found: Stored = {}
    for measurement in [row["name"] for row in influx.rows("SHOW MEASUREMENTS")]:
        answer = influx.query(f'SELECT * FROM "{measurement}" GROUP BY *')
        for series in answer["results"][0].get("series", []):
            tags = tuple(sorted((key, value) for key, value in series["tags"].items() if value))
            names = series["columns"][1:]
            for time_ns, *values in series["values"]:
                pairs = zip(names, values, strict=True)
                found[measurement, tags, time_ns] = {name: value for name, value in pairs if value is not None}
    return found


def _check_accepted(accepted: list[Accepted], journal: Stored, known: Known) -> None:
    wanted = Counter(
        (call.run, metric, call.step, repr(float(value))) for call in accepted for metric, value in call.metrics.items()
    )
    times: dict[tuple[str, str, int], list[int]] = {}
    found: Counter[tuple[str, str, int, str]] = Counter()
    for (measurement, tags, time_ns), fields in journal.items():
        if measurement == "metrics":
            point = Point(measurement, dict(tags), fields, time_ns)
            series = (point.tags["run"], point.tags["metric"], int(fields["step"]))
            found[*series, repr(testing.number_of(point))] += 1
            times.setdefault(series, []).append(time_ns)
    missing, extra = wanted - found, found - wanted
    lost_lines = known["lines"] - (len(journal) - found.total()) if "lines" in known else 0
    lost = missing.total() + lost_lines
    assert lost == known.get("dropped", 0), (
        f"{missing.total()} accepted points are missing: {list(missing)[:3]}; lines: {lost_lines}"
    )
    assert extra.total() <= known.get("unreported", 0), f"{extra.total()} points were never logged: {list(extra)[:3]}"
    for call in accepted:
        for metric in call.metrics:
            given = times.get((call.run, metric, call.step), [])
            early, late = call.before_ns - SLOT_NS, call.after_ns + SLOT_NS
            assert len(given) != 1 or early < given[0] < late, f"the time of {call} is {given[0]}"


def _stored(points: Iterable[Point]) -> Stored:
    stored: Stored = {}
    for point in points:
        assert _key(point) not in stored, f"two points of one series at one instant: {point}"
        assert not any(isinstance(value, float) and not math.isfinite(value) for value in point.fields.values())
        stored[_key(point)] = point.fields
    return stored


def _key(point: Point) -> Key:
    return point.measurement, tuple(sorted(point.tags.items())), point.time_ns


def _quarantined(path: Path) -> Iterable[Point]:
    for file in path.glob("quarantine-*.jsonl"):
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                kept = json.loads(line)
            except ValueError:  # torn by a crash: the point was sent again
                continue
            assert kept["reason"]
            yield parse_line(kept["line"])
