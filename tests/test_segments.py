"""Segments: damage of any byte costs the record it is in and nothing else."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from metriclog import segments
from metriclog.errors import JournalError
from metriclog.replay import JournalReader
from metriclog.segments import HEADER, LINES, META, RECORD, SEAL, SHAPE, SegmentReader, Text, Values
from tests.journals import Contents, Record, log, make_journal, only_segment, read_back

Piece = tuple[str, int, int, Record | None]  # what it is, start, end, the record it holds


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A closed journal of one segment: two shapes, values of both in turn, lines in between, an explicit time stamp."""
    journal = make_journal(tmp_path / "0001-h1")
    for step in range(6):
        log(journal, {"loss": 0.5 + step, "acc": -0.0}, step)
        log(journal, {"lr": 1e-300}, step, (("model", "mlp"),), time_ns=step if step == 3 else None)
        if step % 2:
            journal.append_lines([f'params,param=p{step} text="x" 1', f"events,kind=k count={step}i 2"])
    journal.close()
    return tmp_path / "0001-h1"


def pieces(path: Path) -> list[Piece]:
    """Every record of an undamaged segment, rows of values one by one."""
    reader = SegmentReader(path)
    found: list[Piece] = []
    for entry in reader.read(reader.size(), 1 << 60, settled=True):
        contents = Contents()
        contents.add(1, entry)
        if isinstance(entry, Values):
            size = entry.shape.record.size
            found += [
                ("values", entry.start + index * size, entry.start + (index + 1) * size, record)
                for index, record in enumerate(contents.records)
            ]
        elif isinstance(entry, Text):
            name = {META: "meta", SHAPE: "shape", LINES: "lines", SEAL: "seal"}[entry.kind]
            found.append((name, entry.start, entry.end, contents.records[0] if contents.records else None))
    reader.close()
    return found


def payload_end(content: bytes, start: int) -> int:
    """Where the checked part of a record ends; up to 7 zeros follow."""
    return start + RECORD.size + int(RECORD.unpack_from(content, start)[0])


def flipped(content: bytes, offset: int, bit: int = 0) -> bytes:
    """The same bytes with one bit turned over."""
    return content[:offset] + bytes([content[offset] ^ 1 << bit]) + content[offset + 1 :]


FIELDS = {"length": 0, "crc": 4, "kind": 8, "count": 12, "body": 16, "time": 16, "step": 24, "value": 32, "end": -1}
OF_VALUES = ("length", "crc", "kind", "count", "time", "step", "value", "end")


@pytest.mark.parametrize("bit", [0, 5, 7])
@pytest.mark.parametrize(
    ("kind", "where"),
    [*[("values", name) for name in OF_VALUES], *[("lines", name) for name in [*OF_VALUES[:4], "body"]]],
)
def test_a_flipped_bit_costs_exactly_the_record_it_is_in(folder: Path, kind: str, where: str, bit: int) -> None:
    path = only_segment(folder)
    content = path.read_bytes()
    whole = pieces(path)
    expected = [piece[3] for piece in whole if piece[3]]
    for name, start, _, record in whole:
        if name == kind:
            offset = payload_end(content, start) - 1 if where == "end" else start + FIELDS[where]
            path.write_bytes(flipped(content, offset, bit))
            found = read_back(folder)
            assert found.records == [kept for kept in expected if kept != record]
            assert [(damage.start, damage.torn) for damage in found.damage] == [(start, False)]


def test_a_flipped_bit_anywhere_costs_at_most_the_record_it_is_in(folder: Path) -> None:
    path = only_segment(folder)
    content = path.read_bytes()
    whole = pieces(path)
    expected = [piece[3] for piece in whole if piece[3]]
    for offset in range(len(content)):
        path.write_bytes(flipped(content, offset, offset % 8))
        hit = next((record for _, start, end, record in whole if start <= offset < end), None)
        assert read_back(folder).records in ([kept for kept in expected if kept != hit], expected), offset


@pytest.mark.parametrize("copy", [0, 1, 2, 3])
def test_a_flipped_bit_in_one_copy_of_a_shape_costs_nothing(folder: Path, copy: int) -> None:
    path = only_segment(folder)
    content = path.read_bytes()
    whole = pieces(path)
    start, end = [(start, end) for name, start, end, _ in whole if name == "shape"][copy]
    for offset in range(start, end):
        path.write_bytes(flipped(content, offset))
        assert read_back(folder).records == [piece[3] for piece in whole if piece[3]]


def test_a_header_that_is_damaged_costs_nothing(folder: Path) -> None:
    path = only_segment(folder)
    content = path.read_bytes()
    expected = read_back(folder).records
    for damage in (bytes(HEADER.size), b"\xff" * HEADER.size, content[:8] + b"\xff" * (HEADER.size - 8)):
        path.write_bytes(damage + content[HEADER.size :])
        assert read_back(folder).records == expected


def test_a_segment_of_a_newer_metriclog_is_refused_by_name(folder: Path) -> None:
    path = only_segment(folder)
    path.write_bytes(segments.pack_header(1, 0, version=7) + path.read_bytes()[HEADER.size :])
    with pytest.raises(JournalError, match=rf"{path.name} was written by a newer metriclog \(format 7\); upgrade"):
        JournalReader(folder).read(10)


def test_cut_at_any_byte_a_segment_gives_the_records_before_the_cut(folder: Path) -> None:
    path = only_segment(folder)
    content = path.read_bytes()
    whole = pieces(path)
    for size in range(len(content)):
        path.write_bytes(content[:size])
        found = read_back(folder)
        assert found.records == [record for _, _, end, record in whole if record and end <= size]
        assert all(damage.torn for damage in found.damage)


@pytest.mark.parametrize(
    "tail", [bytes(5000), b"\xff" * 500, b"garbage " * 99, bytes(range(1, 256)) * 9, b"\x10\0\0\0" * 99]
)
def test_zeroed_or_overwritten_from_any_byte_a_segment_gives_the_records_before(folder: Path, tail: bytes) -> None:
    path = only_segment(folder)
    content = path.read_bytes()
    whole = pieces(path)
    for size in range(0, len(content), 3):
        path.write_bytes(content[:size] + tail)
        found = read_back(folder).records
        least = [record for _, start, end, record in whole if record and end <= size]
        assert found[: len(least)] == least
        # A record that ends in zeros may survive zeroing; nothing else can be there.
        assert found in [least + [piece[3] for piece in whole if piece[3]][len(least) :][:more] for more in (0, 1)]


def test_only_zeros_after_the_last_record_are_no_damage(folder: Path) -> None:
    path = only_segment(folder)
    path.write_bytes(path.read_bytes() + bytes(10_000))
    assert read_back(folder).damage == []


def test_damage_at_the_end_is_torn_and_damage_before_a_record_is_not(folder: Path) -> None:
    path = only_segment(folder)
    content = path.read_bytes()
    lines = [(start, end) for name, start, end, _ in pieces(path) if name == "lines"]
    path.write_bytes(flipped(content, lines[0][0] + 20)[: lines[-1][1] - 8])
    found = read_back(folder).damage
    assert [(one.start, one.torn) for one in found] == [(lines[0][0], False), (lines[-1][0], True)]
    assert found[0].end == lines[0][1]


def test_several_damaged_records_in_a_row_are_one_gap(folder: Path) -> None:
    path = only_segment(folder)
    content = bytearray(path.read_bytes())
    whole = pieces(path)
    inside = [piece for piece in whole if piece[3]][2:6]
    content[inside[0][1] : inside[-1][2]] = b"\xa5" * (inside[-1][2] - inside[0][1])
    path.write_bytes(content)
    found = read_back(folder)
    assert found.records == [piece[3] for piece in whole if piece[3] and piece not in inside]
    assert [(one.start, one.end) for one in found.damage] == [(inside[0][1], inside[-1][2])]


def test_the_seal_ends_a_segment_and_counts_its_points(folder: Path) -> None:
    reader = SegmentReader(only_segment(folder))
    entries = list(reader.read(reader.size(), 1 << 60, settled=True))
    assert reader.complete
    assert reader.offset == reader.size()
    assert isinstance(entries[-1], Text)
    assert entries[-1].json()["points"] == sum(entry.points for entry in entries)
    reader.close()


def test_entries_cover_the_segment_without_gap_or_overlap(folder: Path) -> None:
    bounds = [(start, end) for _, start, end, _ in pieces(only_segment(folder))]
    assert bounds[0][0] == HEADER.size
    assert all(before[1] == after[0] for before, after in pairwise(bounds))


@pytest.fixture
def long_segment(tmp_path: Path) -> Path:
    """More than two chunks of records, of sizes that do not divide a chunk."""
    journal = make_journal(tmp_path / "0001-h1", segment_bytes=8 << 20)
    for step in range(30_000):
        log(journal, dict.fromkeys("abcde", float(step)), step)
        if step % 10_000 == 5_000:
            journal.append_lines(["m text=" + "x" * (segments.CHUNK_BYTES + step)])
    journal.close()
    return tmp_path / "0001-h1"


@pytest.mark.parametrize("max_points", [997, 100_000, 1 << 40])
def test_records_are_read_across_chunks_whatever_is_asked_at_a_time(long_segment: Path, max_points: int) -> None:
    contents = read_back(long_segment, max_points=max_points)
    assert contents.steps == list(range(30_000))
    assert len([record for record in contents.records if record[0] == "lines"]) == 3
    assert contents.damage == []
