"""The journal: what is appended is read back, in order, exactly once, across segments, threads and processes."""

from __future__ import annotations

import struct
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metriclog.errors import JournalError
from metriclog.points import Tags
from metriclog.replay import JournalReader
from metriclog.segments import META, SEAL, SHAPE, segment_numbers, split_position
from tests import accepted, journals
from tests.journals import hear, log, make_journal, python, read_back, values_record

DEADLINE_S = 60.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "0001-h1"


def test_what_is_appended_is_read_back_in_order(folder: Path) -> None:
    journal = make_journal(folder)
    tags: Tags = (("model", "mlp"), ("run", "r"))
    log(journal, {"loss": 0.5, "acc": float("nan")}, 1, tags, time_ns=7)
    journal.append_lines(["params,param=lr number=0.1 8", "events,kind=start count=1i 9"])
    log(journal, {"loss": -0.0}, -(2**63), tags, time_ns=2**62)
    expected = [
        values_record(("loss", "acc"), tags, 7, 1, 0.5, float("nan")),
        ("lines", "params,param=lr number=0.1 8", "events,kind=start count=1i 9"),
        values_record(("loss",), tags, 2**62, -(2**63), -0.0),
    ]
    assert read_back(folder).records == expected  # beside the open journal
    journal.close()
    assert read_back(folder).records == expected


def test_a_position_is_the_end_of_its_record_and_always_grows(folder: Path) -> None:
    journal = make_journal(folder)
    positions = []
    for step in range(500):
        positions.append(log(journal, {"loss": step, "acc": step}, step))
        assert journal.position == positions[-1]
        positions.append(journal.append_lines([f"m step={step}"]))
    assert all(before < after for before, after in pairwise(positions))
    assert read_back(folder).ends == positions
    assert split_position(positions[-1])[0] > 3
    journal.close()


def test_segments_are_numbered_from_1_without_a_gap_and_sealed_but_for_the_last(folder: Path) -> None:
    journal = make_journal(folder)
    for step in range(300):
        log(journal, {"loss": step}, step)
    numbers = segment_numbers(folder)
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 2
    contents = read_back(folder)
    for number in numbers[:-1]:
        assert [entry.kind for entry in contents.texts(number)] == [META, META, SHAPE, SHAPE, SEAL]
    journal.close()


@pytest.mark.parametrize("size_bytes", [10, 3_000, 4_000, 5_000, 100_000])
def test_records_near_and_beyond_the_size_of_a_segment_are_kept_whole(folder: Path, size_bytes: int) -> None:
    journal = make_journal(folder)
    line = "m text=" + "x" * size_bytes
    for step in range(5):
        log(journal, {"loss": step}, step)
        journal.append_lines([line])
    contents = read_back(folder)
    assert contents.records.count(("lines", line)) == 5
    assert contents.steps == [0, 1, 2, 3, 4]
    assert contents.damage == []
    journal.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shapes=st.lists(st.tuples(st.integers(1, 400), st.integers(1, 60)), min_size=1, max_size=6),
    repeats=st.integers(1, 4),
)
def test_shapes_of_every_size_find_room(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[int, int]], repeats: int
) -> None:
    """A declaration can be far larger than its record, and both together than a segment."""
    folder = tmp_path_factory.mktemp("shapes")
    journal = make_journal(folder)
    expected = []
    for step in range(repeats):
        for count, length in shapes:
            metrics = {f"{number:0{length}d}": float(number) for number in range(count)}
            log(journal, metrics, step, time_ns=step)
            expected.append(values_record(tuple(metrics), (), step, step, *metrics.values()))
    journal.close()
    contents = read_back(folder)
    assert contents.records == expected
    assert contents.damage == []


@pytest.mark.parametrize("count", [1, 30, 100, 400])
def test_a_shape_and_its_record_that_only_just_do_not_fit_together_find_room(tmp_path: Path, count: int) -> None:
    for length in range(3, 60):
        journal = make_journal(tmp_path / f"{length}")
        for step in range(2):
            log(journal, {f"{number:0{length}d}": step for number in range(count)}, step)
        journal.close()
        assert read_back(tmp_path / f"{length}").steps == [0, 1]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    metrics=st.lists(accepted.names(), min_size=1, max_size=4, unique=True),
    tags=accepted.tags(),
    rows=st.lists(st.tuples(accepted.INT64, accepted.TIMES_NS, accepted.FLOATS), min_size=1, max_size=20),
)
def test_names_tags_steps_times_and_floats_are_kept_exactly(
    tmp_path_factory: pytest.TempPathFactory,
    metrics: list[str],
    tags: dict[str, str],
    rows: list[tuple[int, int, float]],
) -> None:
    folder = tmp_path_factory.mktemp("exact")
    journal = make_journal(folder)
    tag_set = tuple(tags.items())
    for step, time_ns, value in rows:
        log(journal, dict.fromkeys(metrics, value), step, tag_set, time_ns)
    journal.close()
    expected = [values_record(tuple(metrics), tag_set, t, step, *[value] * len(metrics)) for step, t, value in rows]
    assert read_back(folder).records == expected


def test_from_the_end_of_any_record_the_rest_is_read(folder: Path) -> None:
    journal = make_journal(folder)
    for step in range(120):
        log(journal, {"loss": step}, step)
        log(journal, {"acc": step, "lr": step}, step)
        journal.append_lines([f"m step={step}"])
    journal.close()
    everything = read_back(folder)
    assert len(segment_numbers(folder)) > 3
    for index, end in enumerate(everything.ends):
        assert read_back(folder, end, max_points=7).records == everything.records[index + 1 :]


def test_a_reader_goes_on_where_it_stopped_and_stops_where_it_is_told(folder: Path) -> None:
    journal = make_journal(folder)
    reader = JournalReader(folder)
    seen = journals.Contents()
    for step in range(200):
        first = log(journal, {"loss": step}, 2 * step)
        log(journal, {"loss": step}, 2 * step + 1)
        for number, entry in reader.read(1000, until=first):
            seen.add(number, entry)
        assert seen.steps == list(range(2 * step + 1))
        if step % 20 == 0:
            reader.close()
    reader.close()
    journal.close()


def test_a_buffered_journal_is_on_disk_as_far_as_it_says(folder: Path) -> None:
    journal = make_journal(folder, buffered=True)
    for step in range(300):
        log(journal, {"loss": step}, step)
        if step % 40 == 0:
            journal.sync()
            assert journal.readable == journal.position
            assert read_back(folder, until=journal.readable).steps == list(range(step + 1))
        saved = read_back(folder)
        assert saved.steps == list(range(step - step % 40 + 1))
        assert saved.damage == []
    journal.close()
    assert read_back(folder).steps == list(range(300))


def test_a_value_that_does_not_pack_leaves_no_trace(folder: Path) -> None:
    journal = make_journal(folder)
    log(journal, {"loss": 1.0}, 1)
    position = journal.position
    for bad in (["text"], [None], [10**400], [1.0, 2.0], []):
        with pytest.raises((struct.error, OverflowError, TypeError)):
            journal.append_values(journal.shape((("loss",), ()), ("loss",), ()), 2, bad)  # type: ignore[arg-type]
    assert (journal.position, journal.points) == (position, 1)
    log(journal, {"loss": 3.0}, 3)
    assert read_back(folder).steps == [1, 3]
    journal.close()


def test_points_are_counted_one_a_value_and_one_a_line(folder: Path) -> None:
    journal = make_journal(folder)
    for step in range(100):
        log(journal, {"a": 1, "b": 2, "c": 3}, step)
        journal.append_lines(["m v=1 1", "m v=2 2"])
    assert journal.points == 500
    journal.close()
    assert sum(entry.points for _, entry in read_back(folder).entries) == 500


def test_after_close_the_segment_has_its_true_length_and_appending_is_refused(folder: Path) -> None:
    journal = make_journal(folder, segment_bytes=1 << 20)
    shape = journal.shape("key", ("loss",), ())
    end = journal.append_values(shape, 1, [0.5])
    journal.close()
    journal.close()
    assert journals.only_segment(folder).stat().st_size < split_position(end)[1] + 256
    for append in (
        lambda: journal.append_values(shape, 2, [0.5]),
        lambda: journal.append_lines(["m v=1"]),
        lambda: journal.shape("other", ("acc",), ()),
    ):
        with pytest.raises(JournalError, match="closed"):
            append()
    assert read_back(folder).steps == [1]


def test_a_shape_stays_usable_after_its_segment_is_full(folder: Path) -> None:
    journal = make_journal(folder)
    kept = [journal.shape(name, (name, "x"), ()) for name in "abc"]
    for step in range(300):
        shape = kept[step % 3]
        journal.append_values(shape, step, [step, step], time_ns=step)
    journal.close()
    expected = [values_record(("abc"[step % 3], "x"), (), step, step, step, step) for step in range(300)]
    assert read_back(folder).records == expected


def test_threads_share_a_journal_without_losing_or_tearing_a_record(folder: Path) -> None:
    journal = make_journal(folder, segment_bytes=1 << 16)
    ends: dict[int, list[int]] = {number: [] for number in range(4)}

    def work(number: int) -> None:
        for step in range(2_000):
            ends[number].append(log(journal, {f"m{number}": step, "x": number}, step))

    threads = [threading.Thread(target=work, args=(number,)) for number in ends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    journal.close()
    contents = read_back(folder)
    assert contents.ends == sorted(position for positions in ends.values() for position in positions)
    assert all(before < after for before, after in pairwise(contents.times_ns))
    for number in ends:
        own = [record[4] for record in contents.records if record[1] == (f"m{number}", "x")]
        assert own == list(range(2_000))


WRITER = """
import sys
from pathlib import Path
from tests.journals import log, make_journal
journal = make_journal(Path(sys.argv[1]), segment_bytes=1 << 16)
for step in range(60_000):
    log(journal, {"a": step, "b": -step, "c": 0.5}, step)
    if step % 1000 == 0:
        journal.append_lines(["m text=" + "x" * 5_000, f"m step={step}"])
print("done", flush=True)
sys.stdin.read()
"""


def test_a_reader_beside_another_process_sees_no_torn_record(folder: Path) -> None:
    folder.mkdir()
    contents = journals.Contents()
    with python(WRITER, folder) as writer:
        reader = JournalReader(folder)
        deadline_s = time.monotonic() + DEADLINE_S
        while len(contents.steps) < 60_000 and time.monotonic() < deadline_s:
            for number, entry in reader.read(5_000):
                contents.add(number, entry)
        reader.close()
        assert hear(writer) == "done"
    assert contents.steps == list(range(60_000))
    assert all(record[5:] == values_record((), (), 0, 0, step, -step, 0.5)[5:] for step, record in by_step(contents))
    assert [record for record in contents.records if record[0] == "lines"] == [
        ("lines", "m text=" + "x" * 5_000, f"m step={step}") for step in range(0, 60_000, 1000)
    ]
    assert contents.damage == []


def by_step(contents: journals.Contents) -> list[tuple[int, journals.Record]]:
    return [(record[4], record) for record in contents.records if record[0] == "values"]  # type: ignore[misc]


def test_the_first_record_of_every_segment_says_who_writes(folder: Path) -> None:
    journal = make_journal(folder)
    for step in range(200):
        log(journal, {"loss": step}, step)
    journal.close()
    contents = read_back(folder)
    numbers = segment_numbers(folder)
    assert len(numbers) > 2
    assert [contents.texts(number)[0].json() for number in numbers] == [journals.META] * len(numbers)
