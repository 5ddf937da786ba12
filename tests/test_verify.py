"""The proof: what `verify` counts, and that it sees every point that is missing, altered, unknown or damaged."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

import metriclog
from metriclog import directory, influxql, quarantine, testing
from metriclog import verify as room
from metriclog.acks import Ack, load_ack, save_ack
from metriclog.errors import RunNotFoundError
from metriclog.journal import Journal
from metriclog.points import Field, Point
from metriclog.quarantine import Refused
from metriclog.segments import Entry, Values, position_of
from metriclog.settings import Settings
from metriclog.verify import Verdict, verify
from tests.journals import META, Clock, log, read_back
from tests.shelf import Shelf

STEPS = 300


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The journals of a finished run "r": two metrics a step, with all that a float can be."""
    odd = [math.nan, math.inf, -math.inf, -0.0, 0.0, 1e300, 5e-324, 1e20, 0.1 + 0.2]
    settings = Settings(dir=tmp_path / "journal", segment_bytes=64 << 10)
    with metriclog.init("exp", run_id="r", params={"lr": 0.1, "act": "relu"}, settings=settings) as run:
        for step in range(STEPS):
            run.log({"loss": odd[step % len(odd)], "norm": step / 7}, step + (1 << 53 if step % 5 == 0 else 0))
        run.event("note", "half-time", text='line 1\nline "2"')
    return tmp_path / "journal"


@pytest.fixture
def folder(root: Path) -> Path:
    (found,) = directory.process_directories(root, "r")
    return found


def points_of(folder: Path) -> list[Point]:
    return list(testing.read_points(folder))


def entries_of(folder: Path) -> list[tuple[int, Entry]]:
    return read_back(folder, max_points=1 << 30).entries


def acknowledge(folder: Path, position: int | None = None) -> None:
    """The shelf has said yes up to a position, or to everything."""
    end = max(position_of(number, entry.end) for number, entry in entries_of(folder))
    save_ack(folder, Shelf.target, Ack(position=end if position is None else position))


@pytest.fixture
def shelf(folder: Path) -> Shelf:
    """A server that has everything and has said so."""
    acknowledge(folder)
    return Shelf(points_of(folder))


def counts(verdict: Verdict) -> tuple[int, ...]:
    """Accepted, delivered, pending, quarantined, dropped."""
    return (verdict.accepted, verdict.delivered, verdict.pending, verdict.quarantined, verdict.dropped)


def total(folder: Path) -> int:
    return len(points_of(folder))


def test_a_run_that_is_delivered_whole_holds(root: Path, folder: Path, shelf: Shelf) -> None:
    verdict = verify(root, "r", shelf)
    assert verdict.holds
    assert counts(verdict) == (total(folder), total(folder), 0, 0, 0)
    assert verdict.differences == []


def test_a_run_of_which_nothing_is_shipped_is_pending(root: Path, folder: Path) -> None:
    verdict = verify(root, "r", Shelf())
    assert verdict.holds
    assert counts(verdict) == (total(folder), 0, total(folder), 0, 0)


def test_a_run_that_is_nowhere_is_an_error(root: Path) -> None:
    with pytest.raises(RunNotFoundError, match="run 'other' is not in"):
        verify(root, "other", Shelf())


def half_way(folder: Path) -> int:
    """A position in the middle of a stretch of rows."""
    for number, entry in entries_of(folder):
        if isinstance(entry, Values) and len(entry.rows) > 10:
            size = (entry.end - entry.start) // len(entry.rows)
            return position_of(number, entry.start + len(entry.rows) // 2 * size)
    raise AssertionError("no stretch of rows")


def test_an_ack_in_the_middle_parts_what_is_delivered_from_what_is_pending(root: Path, folder: Path) -> None:
    acknowledge(folder, half_way(folder))
    after = list(testing.read_points(folder, half_way(folder)))
    shelf = Shelf(points_of(folder)[: -len(after)])
    verdict = verify(root, "r", shelf)
    assert verdict.holds
    assert (verdict.pending, verdict.delivered) == (len(after), total(folder) - len(after))

    stamps = shelf.find("norm")
    lost_ns = max(stamps)
    del stamps[lost_ns]
    verdict = verify(root, "r", shelf)
    assert not verdict.holds
    assert (verdict.missing, verdict.pending) == (1, len(after))
    assert str(lost_ns) in verdict.differences[0]


# -- what is wrong is seen and named ----------------------------------------------------------------------------

Change = Callable[[dict[str, Field]], object]
CHANGES: dict[str, tuple[str, Change]] = {
    "value": ("norm", lambda fields: fields.update(value=float(fields["value"]) * (1 + 2**-52))),
    "step-by-one-beyond-2^53": ("norm", lambda fields: fields.update(step=int(fields["step"]) ^ 1)),
    "elapsed": ("norm", lambda fields: fields.update(elapsed=int(fields["elapsed"]) + 1)),
    "a-field-more": ("norm", lambda fields: fields.update(nonfinite=1)),
    "a-field-less": ("norm", lambda fields: fields.pop("elapsed")),
}


@pytest.mark.parametrize(("metric", "change"), CHANGES.values(), ids=[*CHANGES])
def test_an_altered_point_is_named_with_both_values(root: Path, shelf: Shelf, metric: str, change: Change) -> None:
    stamps = shelf.find(metric)
    time_ns, fields = next((time, fields) for time, fields in stamps.items() if int(fields["step"]) == (1 << 53) + 5)
    change(fields)
    verdict = verify(root, "r", shelf)
    assert not verdict.holds
    assert (verdict.altered, verdict.missing, verdict.unknown) == (1, 0, 0)
    (words,) = verdict.differences
    assert words.startswith(f"altered: metrics {metric} at {time_ns}: logged ")
    assert "on the server" in words


@pytest.mark.parametrize(("stored", "instead"), [(-0.0, 0.0), (0.0, -0.0), (1, 2), (3, 2)], ids=str)
def test_minus_zero_and_the_kinds_of_non_finite_values_are_told_apart(
    root: Path, shelf: Shelf, stored: float, instead: float
) -> None:
    name = "value" if isinstance(stored, float) else "nonfinite"
    stamps = shelf.find("loss")
    fields = next(one for one in stamps.values() if name in one and repr(one[name]) == repr(stored))
    fields[name] = instead
    verdict = verify(root, "r", shelf)
    assert (verdict.altered, verdict.holds) == (1, False)


@pytest.mark.parametrize("metric", ["loss", "norm"])
def test_a_deleted_point_is_named(root: Path, shelf: Shelf, metric: str) -> None:
    stamps = shelf.find(metric)
    time_ns = sorted(stamps)[STEPS // 2]
    del stamps[time_ns]
    verdict = verify(root, "r", shelf)
    assert (verdict.missing, verdict.holds) == (1, False)
    assert verdict.differences[0].startswith(f"missing on the server: metrics {metric} at {time_ns}: ")


def test_a_point_that_nobody_logged_is_named_in_a_series_of_the_run_and_in_one_of_its_own(
    root: Path, shelf: Shelf
) -> None:
    tags = {"experiment": "exp", "run": "r"}
    shelf.put([Point("metrics", {**tags, "metric": "loss"}, {"value": 6.5, "step": 1}, 17)])
    shelf.put([Point("metrics", {**tags, "metric": "forged"}, {"value": 7.5}, 18)])
    shelf.put([Point("metrics", {**tags, "run": "another", "metric": "loss"}, {"value": 8.5}, 19)])
    verdict = verify(root, "r", shelf)
    assert (verdict.unknown, verdict.holds) == (2, False)
    named = "\n".join(verdict.differences)
    assert "on the server, not in the journal: metrics loss at 17: value=6.5, step=1" in named
    assert "metrics forged at 18" in named
    assert "19" not in named.split()


def test_thousands_of_differences_are_counted_and_a_few_named(root: Path, folder: Path) -> None:
    acknowledge(folder)
    verdict = verify(root, "r", Shelf())
    assert verdict.missing == total(folder)
    assert 10 <= len(verdict.differences) <= 50


def test_a_byte_altered_in_a_segment_is_named_with_segment_and_bytes(root: Path, folder: Path, shelf: Shelf) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it where the test fails
    rng = random.Random(seed)
    rows = [(number, entry) for number, entry in entries_of(folder) if isinstance(entry, Values)]
    for _ in range(20):
        number, entry = rng.choice(rows)
        at, path = rng.randrange(entry.start, entry.end), folder / f"{number:08d}.seg"
        whole = path.read_bytes()
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
        verdict = verify(root, "r", shelf)
        path.write_bytes(whole)
        assert not verdict.holds, at
        assert verdict.damaged == 1
        start, end = map(int, verdict.differences[0].removeprefix(f"damaged record: {path}, bytes ").split(" to "))
        assert start <= at < end
        assert verdict.unknown > 0, "what the record held is on the server"


# -- every state of a point -------------------------------------------------------------------------------------


def quarantine_some(folder: Path, shelf: Shelf, kind: str = "quarantine", step: int = 5) -> int:
    """Take the metric "norm" of every `step`-th time off the shelf and into quarantine."""
    stamps = shelf.find("norm")
    chosen = sorted(stamps)[::step]
    lines = [f"metrics,experiment=exp,metric=norm,run=r value=0.5 {time_ns}" for time_ns in chosen]
    quarantine.add(folder, Shelf.target, [Refused(line, "no", 1 << 45) for line in lines], kind)
    for time_ns in chosen:
        del stamps[time_ns]
    return len(chosen)


def test_quarantined_points_and_those_dropped_by_hand_have_states_of_their_own(
    root: Path, folder: Path, shelf: Shelf
) -> None:
    refused = quarantine_some(folder, shelf)
    given_up = quarantine_some(folder, shelf, "dropped", 7)
    verdict = verify(root, "r", shelf)
    assert verdict.holds
    everything = total(folder)
    assert counts(verdict) == (everything, everything - refused - given_up, 0, refused, given_up)


def test_a_quarantined_point_that_got_onto_the_server_after_all_is_delivered(
    root: Path, folder: Path, shelf: Shelf
) -> None:
    quarantine_some(folder, shelf)
    shelf.put(points_of(folder))
    verdict = verify(root, "r", shelf)
    assert (verdict.holds, verdict.quarantined, verdict.delivered) == (True, 0, total(folder))


def test_a_line_that_is_no_line_protocol_is_pending_until_it_is_in_quarantine(tmp_path: Path) -> None:
    path = tmp_path / "journal" / "r" / "0001-h1"
    path.mkdir(parents=True)
    journal = Journal.create(path, META, segment_bytes=4096, clock=Clock())
    journal.append_lines(["not a line"])
    log(journal, {"loss": 1.0}, 1, (("experiment", "digits"), ("run", "r")))
    journal.close()
    shelf = Shelf(point for point in read_lenient(path) if point.measurement)
    verdict = verify(tmp_path / "journal", "r", shelf)
    assert (verdict.holds, verdict.pending, verdict.delivered) == (True, 1, 1)
    acknowledge(path)
    assert not verify(tmp_path / "journal", "r", shelf).holds
    quarantine.add(path, Shelf.target, [Refused("not a line", "missing fields", 1 << 45)])
    verdict = verify(tmp_path / "journal", "r", shelf)
    assert (verdict.holds, verdict.quarantined) == (True, 1)


def read_lenient(path: Path) -> list[Point]:
    """The metric of the journal above."""
    tags = {"experiment": "digits", "run": "r", "metric": "loss"}
    ((_, entry),) = [found for found in entries_of(path) if isinstance(found[1], Values)]
    assert isinstance(entry, Values)
    time_ns, step, value = entry.rows[0]
    elapsed_ms = (time_ns - META["started_ns"]) // 1_000_000
    return [Point("metrics", tags, {"value": value, "step": step, "elapsed": elapsed_ms}, time_ns)]


def test_points_that_found_no_room_are_dropped_and_the_account_holds(tmp_path: Path) -> None:
    path = tmp_path / "journal" / "r" / "0001-h1"
    path.mkdir(parents=True)
    journal = Journal.create(path, META, segment_bytes=4096, clock=Clock())
    tags = (("experiment", "digits"), ("run", "r"))
    for step in range(200):
        log(journal, {"loss": 1.0}, step, tags)
        if step == 50:
            journal.lose(17)
    journal.close()
    verdict = verify(tmp_path / "journal", "r", Shelf())
    assert verdict.holds
    assert counts(verdict) == (217, 0, 200, 0, 17)


# -- while the run goes on --------------------------------------------------------------------------------------


def test_what_a_live_run_logs_and_ships_meanwhile_is_no_difference(tmp_path: Path) -> None:
    settings = Settings(dir=tmp_path / "journal")
    with metriclog.init("exp", run_id="r", settings=settings) as run:
        for step in range(20):
            run.log({"loss": 0.5, "norm": 1.5}, step)
        (folder,) = directory.process_directories(settings.dir)
        shelf = Shelf(points_of(folder))
        steps = iter(range(20, 1000))

        def train_on(_: str) -> None:
            run.log({"loss": 0.5, "norm": 1.5, f"new/{next(steps)}": 1.0}, next(steps))
            run.event("note", "meanwhile")
            shelf.put(points_of(folder))
            acknowledge(folder)

        shelf.before = train_on
        verdict = verify(settings.dir, "r", shelf)
    assert verdict.holds, verdict.differences
    assert verdict.delivered >= 40
    assert load_ack(folder, Shelf.target).position > 0


def test_long_series_are_read_in_pages_and_nothing_falls_between_two(
    root: Path, folder: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "PAGE_POINTS", 7)
    verdict = verify(root, "r", shelf)
    assert (verdict.holds, verdict.delivered) == (True, total(folder))
    assert len([text for text in shelf.asked if "'norm'" in text]) > STEPS // 7
    first_ns, last_ns = min(shelf.find("norm")), max(shelf.find("norm"))
    tags = {"experiment": "exp", "run": "r", "metric": "norm"}
    for time_ns in (first_ns - 1000, last_ns + 1000):
        shelf.put([Point("metrics", tags, {"value": 1.0}, time_ns)])
    assert verify(root, "r", shelf).unknown == 2


def test_every_measurement_that_metriclog_writes_is_compared(root: Path, folder: Path, shelf: Shelf) -> None:
    assert {point.measurement for point in points_of(folder)} <= influxql.FIELDS.keys()


def test_a_point_that_the_server_shows_half_written_is_asked_for_again(root: Path, folder: Path) -> None:
    shelf = Shelf(points_of(folder))
    stamps = shelf.find("norm")
    time_ns = max(stamps)
    whole, stamps[time_ns] = stamps[time_ns], {"elapsed": stamps[time_ns]["elapsed"]}
    waited: list[float] = []

    def write_the_rest(seconds: float) -> None:
        waited.append(seconds)
        stamps[time_ns] = whole

    verdict = verify(root, "r", shelf, sleep=write_the_rest)
    assert (verdict.holds, verdict.delivered) == (True, total(folder))
    assert len(waited) == 1


def test_a_point_that_stays_half_written_is_altered(root: Path, folder: Path) -> None:
    shelf = Shelf(points_of(folder))
    stamps = shelf.find("norm")
    del stamps[max(stamps)]["step"]
    waited: list[float] = []
    verdict = verify(root, "r", shelf, sleep=waited.append)
    assert (verdict.holds, verdict.altered) == (False, 1)
    assert len(waited) == 1
