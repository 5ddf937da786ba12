"""The bytes of a journal segment: one preallocated file of checked records. Knows records and offsets, nothing else.

    file    = header (64 bytes) · record · record · … · zeros
    header  = "MLJRNL01" · version u32 · header size u32 · segment number u64 · created ns i64 · crc32 u32 · zeros
    record  = length u32 · crc32 u32 · payload (`length` bytes) · zeros up to a multiple of 8
    payload = kind u32 · count u32 · body

`count` is the number of points in the record. Kinds: META (JSON: who writes), SHAPE (JSON: id, metrics, tags), LINES
(line protocol), LOSS (JSON: points that could not be kept), SEAL (JSON: the segment is complete), and from
FIRST_SHAPE on a *values* record of that shape: time_ns i64 · step i64 · one float64 a metric. All little-endian.

The writer puts the payload first and the length word last, so a record exists or it does not, also after kill -9; the
CRC finds what a power cut or a bad disk left. Every segment declares its own shapes: it can be read alone.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from metriclog.errors import JournalError

MAGIC = b"MLJRNL01"
VERSION = 1
HEADER = struct.Struct("<8sIIQqI28x")
RECORD = struct.Struct("<II")
KIND = struct.Struct("<II")
_HEADER_CHECKED = 32  # bytes of the header before its crc
META, SHAPE, LINES, LOSS, SEAL = 1, 2, 3, 4, 5
FIRST_SHAPE = 16
CHUNK_BYTES = 1 << 20
MAX_RECORD_BYTES = 1 << 28

OFFSET_BITS = 40  # a position is `segment number << 40 | offset`
STALE = 1 << 62

Row = tuple[Any, ...]  # (time_ns, step, value, …)


def position_of(number: int, offset: int) -> int:
    """The position of a byte in a segment."""
    return number << OFFSET_BITS | offset


def split_position(position: int) -> tuple[int, int]:
    """(segment number, offset)."""
    return position >> OFFSET_BITS, position & (1 << OFFSET_BITS) - 1


class WriterShape:
    """A shape declared in the segment being written. `total` is huge once that segment is full."""

    __slots__ = ("count", "id", "key", "metrics", "pack", "size", "tags", "total")

    def __init__(self, number: int, key: Any, metrics: tuple[str, ...], tags: tuple[tuple[str, str], ...]) -> None:
        layout = struct.Struct(f"<IIqq{len(metrics)}d")
        self.id, self.key, self.metrics, self.tags, self.count = number, key, metrics, tags, len(metrics)
        self.pack, self.size, self.total = layout.pack, layout.size, RECORD.size + layout.size

    def declaration(self) -> bytes:
        """The body of its SHAPE record."""
        return dump_json({"id": self.id, "metrics": self.metrics, "tags": self.tags})


@dataclass(frozen=True, slots=True)
class Shape:
    """A list of metrics and their tag set; `unpack` reads whole records of it."""

    id: int
    metrics: tuple[str, ...]
    tags: tuple[tuple[str, str], ...]

    @property
    def record(self) -> struct.Struct:
        """Layout of one record: length, crc, kind, count, time_ns, step, values."""
        return struct.Struct(f"<IIIIqq{len(self.metrics)}d")


@dataclass(frozen=True, slots=True)
class Values:
    """Consecutive records of one shape. `start` and `end` are offsets in the segment."""

    shape: Shape
    rows: list[Row]
    start: int
    end: int

    @property
    def points(self) -> int:
        """How many points: rows times metrics."""
        return len(self.rows) * len(self.shape.metrics)


@dataclass(frozen=True, slots=True)
class Text:
    """One META, LINES, LOSS or SEAL record."""

    kind: int
    points: int
    body: bytes
    start: int
    end: int

    def json(self) -> dict[str, Any]:
        """The body of a META, LOSS or SEAL record."""
        loaded: dict[str, Any] = json.loads(self.body)
        return loaded


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that are no valid record; `torn` if nothing follows them."""

    start: int
    end: int
    torn: bool

    points: int = 0


Entry = Values | Text | Damage


def padded(length: int) -> int:
    """Bytes a record with this payload length takes in the file."""
    return RECORD.size + (length + 7 & ~7)


def pack_payload(kind: int, points: int, body: bytes) -> bytes:
    """The payload of a record that is not a values record."""
    return KIND.pack(kind, points) + body


def pack_record(kind: int, body: bytes) -> bytes:
    """A whole record without points, as it lies in a segment."""
    payload = pack_payload(kind, 0, body)
    return (RECORD.pack(len(payload), crc32(payload)) + payload).ljust(padded(len(payload)), b"\0")


def dump_json(value: dict[str, Any]) -> bytes:
    """Compact JSON, the same bytes for the same content."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def pack_header(number: int, created_ns: int, version: int = VERSION) -> bytes:
    """The header of segment `number`."""
    fields = (MAGIC, version, HEADER.size, number, created_ns)
    return HEADER.pack(*fields, crc32(HEADER.pack(*fields, 0)[:_HEADER_CHECKED]))


def segment_name(number: int) -> str:
    """`00000007.seg`."""
    return f"{number:08d}.seg"


def gone_name(number: int) -> str:
    """The name of a segment that is set aside, to be deleted."""
    return f"{number:08d}.gone"


def segment_numbers(directory: Path) -> list[int]:
    """The segments of one process directory, ascending."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"(\d{8})\.seg", name)))


class SegmentReader:
    """Reads one segment from its start, remembering its shapes. Uses `pread`: a file cut short is no SIGBUS.

    `OSError` passes through. A segment of a newer format is a `JournalError`; a header that is damaged does no harm,
    because each record is checked by itself. `complete` turns true at the SEAL record.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed in close()
        self._shapes: dict[int, Shape] = {}
        self.offset = HEADER.size
        self.complete = False
        version = _version(self._file.read(HEADER.size))
        if version > VERSION:
            self._file.close()
            raise JournalError(f"{path} was written by a newer metriclog (format {version}); upgrade to read it")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def size(self) -> int:
        """Bytes in the file now."""
        return os.fstat(self._file.fileno()).st_size

    def is_blank(self, start: int) -> bool:
        """Whether there are only zeros from a byte on."""
        return not os.pread(self._file.fileno(), self.size() - start, start).strip(b"\0")

    def replaced(self) -> bool:
        """Whether there is another file under the name by now. One that is deleted can still be read to its end."""
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False

    def read(self, until: int, max_points: int, *, settled: bool) -> Iterator[Entry]:
        """Entries from `offset` on, up to byte `until` and about `max_points` points; `offset` moves along.

        `settled` says that nobody writes below `until` any more, so that what cannot be read is damage, not a
        record on its way.
        """
        points = 0
        while self.offset < until and not self.complete and points < max_points:
            buffer = self._load(until)
            position = 0
            while position < len(buffer) and points < max_points:
                entry, used = self._next(buffer, position, max_points - points)
                if entry is None:
                    break
                position += used
                self.offset += used
                points += entry.points
                self._learn(entry)
                yield entry
            if position == 0:
                damage = self._resync(until) if settled else None
                if damage is None:
                    return
                yield damage

    def skip_to(self, offset: int, until: int) -> None:
        """Move to `offset`, learning the shapes on the way."""
        if offset > self.offset:
            for _ in self.read(min(offset, until), 1 << 62, settled=True):
                pass
            self.offset = offset

    def _load(self, until: int) -> bytes:
        buffer = os.pread(self._file.fileno(), min(CHUNK_BYTES, until - self.offset), self.offset)
        if len(buffer) >= RECORD.size:
            size = padded(RECORD.unpack_from(buffer)[0])
            if len(buffer) < size <= min(MAX_RECORD_BYTES, until - self.offset):
                return os.pread(self._file.fileno(), size, self.offset)
        return buffer

    def _next(self, buffer: bytes, position: int, max_points: int) -> tuple[Entry | None, int]:
        """The entry at `position` of `buffer` and its size, or (None, 0) if there is no whole valid record."""
        length, kind, stop = _frame(buffer, position)
        if not length:
            return None, 0
        shape = self._shapes.get(kind)
        if shape is not None:
            return self._rows(shape, buffer, position, max_points)
        payload = buffer[position + RECORD.size : position + RECORD.size + length]
        if crc32(payload) != RECORD.unpack_from(buffer, position)[1] or kind >= FIRST_SHAPE:
            return None, 0
        start = self.offset
        body = payload[KIND.size :]
        return Text(kind, KIND.unpack_from(payload)[1], body, start, start + stop - position), stop - position

    def _rows(self, shape: Shape, buffer: bytes, position: int, max_points: int) -> tuple[Entry | None, int]:
        record = shape.record
        size = record.size
        room = min((len(buffer) - position) // size, max(1, max_points // len(shape.metrics)))
        view = memoryview(buffer)[position : position + room * size]
        rows: list[Row] = []
        at = RECORD.size
        for fields in record.iter_unpack(view):
            if fields[2] != shape.id or fields[0] != size - RECORD.size:
                break
            if crc32(view[at : at + size - RECORD.size]) != fields[1]:
                break
            rows.append(fields[4:])
            at += size
        used = len(rows) * size
        return (Values(shape, rows, self.offset, self.offset + used), used) if rows else (None, 0)

    def _learn(self, entry: Entry) -> None:
        if isinstance(entry, Text) and entry.kind == SHAPE:
            shape = entry.json()
            tags = tuple(tuple(pair) for pair in shape["tags"])
            self._shapes[shape["id"]] = Shape(shape["id"], tuple(shape["metrics"]), tags)
        elif isinstance(entry, Text) and entry.kind == SEAL:
            self.complete = True

    def _resync(self, until: int) -> Damage | None:
        """Step over bytes that are no record to the next one that is; None if only zeros follow."""
        buffer = os.pread(self._file.fileno(), until - self.offset, self.offset)
        rest = buffer.rstrip(b"\0")
        if not rest:
            self.offset = until
            return None
        start = self.offset
        for position in range(8, len(buffer) - RECORD.size, 8):
            if RECORD.unpack_from(buffer, position)[0] and self._valid(buffer, position):
                self.offset = start + position
                return Damage(start, self.offset, torn=False)
        self.offset = until
        return Damage(start, start + len(rest), torn=True)

    def _valid(self, buffer: bytes, position: int) -> bool:
        length, kind, _ = _frame(buffer, position)
        if not length or not (META <= kind <= SEAL or kind in self._shapes):
            return False
        payload = memoryview(buffer)[position + RECORD.size : position + RECORD.size + length]
        return bool(crc32(payload) == RECORD.unpack_from(buffer, position)[1])


def _version(header: bytes) -> int:
    """The format that a header tells; 0 if it is damaged or none."""
    if len(header) < HEADER.size or not header.startswith(MAGIC):
        return 0
    fields = HEADER.unpack(header)
    return int(fields[1]) if fields[-1] == crc32(header[:_HEADER_CHECKED]) else 0


def _frame(buffer: bytes, position: int) -> tuple[int, int, int]:
    """(length, kind, end) of the record at `position`, or length 0 if no whole record can be there."""
    if position + RECORD.size + KIND.size > len(buffer):
        return 0, 0, 0
    length = RECORD.unpack_from(buffer, position)[0]
    stop = position + padded(length)
    if length < KIND.size or length > MAX_RECORD_BYTES or stop > len(buffer):
        return 0, 0, 0
    return length, KIND.unpack_from(buffer, position + RECORD.size)[0], stop
