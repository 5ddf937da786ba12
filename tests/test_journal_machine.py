"""The journal as a state machine: whatever is appended, rolled, read, acknowledged, deleted and crashed, in any order.

The model is the list of records appended. A crash is a copy of the directory as it is on disk, cut or overwritten from
any byte of the segment being written; the journal under test goes on beside it.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from metriclog.acks import Ack, load_ack, save_ack
from metriclog.points import Tags
from metriclog.replay import JournalReader
from metriclog.segments import HEADER, position_of, segment_name, segment_numbers, split_position
from tests.accepted import FLOATS
from tests.journals import Clock, Contents, Record, log, make_journal, read_back, values_record

TARGET = "scripted"
SHAPES: list[tuple[tuple[str, ...], Tags]] = [
    (("loss",), ()),
    (("loss", "acc"), (("model", "mlp"),)),
    (tuple(f"metric/{number}" for number in range(60)), ()),
]
TAILS = {"cut": b"", "zeros": bytes(300), "garbage": b"\x10\0\0\0garbage\xff" * 30}


class JournalMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="metriclog-machine-"))
        self.folder = self.root / "0001-h1"
        self.records: list[Record] = []
        self.ends: list[int] = []
        self.step = 0

    @initialize(segment_bytes=st.sampled_from([4096, 1 << 14]), tick_ns=st.sampled_from([0, 1000]))
    def begin(self, segment_bytes: int, tick_ns: int) -> None:
        self.clock = Clock(tick_ns=tick_ns)
        self.journal = make_journal(self.folder, segment_bytes=segment_bytes, slot=1, clock=self.clock)
        self.follower = JournalReader(self.folder)
        self.followed = Contents()

    def teardown(self) -> None:
        if hasattr(self, "journal"):
            self.journal.close()
            self.follower.close()
            assert self.since(self.acked()) == read_back(self.folder, self.acked()).records
        shutil.rmtree(self.root)

    def acked(self) -> int:
        return load_ack(self.folder, TARGET).position

    def since(self, position: int) -> list[Record]:
        """The records of the model that end after `position`."""
        return [record for record, end in zip(self.records, self.ends, strict=True) if end > position]

    def keep(self, record: Record, end: int) -> None:
        assert end > (self.ends[-1] if self.ends else 0)
        self.records.append(record)
        self.ends.append(end)

    # -- writing --------------------------------------------------------------------------------------------------

    @rule(shape=st.sampled_from(SHAPES), value=FLOATS, repeats=st.integers(1, 40))
    def append_values(self, shape: tuple[tuple[str, ...], Tags], value: float, repeats: int) -> None:
        metrics, tags = shape
        for _ in range(repeats):
            self.step += 1
            time_ns = 10 * self.step
            end = log(self.journal, dict.fromkeys(metrics, value), self.step, tags, time_ns)
            self.keep(values_record(metrics, tags, time_ns, self.step, *[value] * len(metrics)), end)

    @rule(count=st.integers(1, 3), size_bytes=st.sampled_from([0, 1, 7, 500, 6_000]))
    def append_lines(self, count: int, size_bytes: int) -> None:
        self.step += 1
        lines = [f"m,line={number} text={'x' * size_bytes} {self.step}" for number in range(count)]
        self.keep(("lines", *lines), self.journal.append_lines(lines))

    @rule()
    def roll(self) -> None:
        number = segment_numbers(self.folder)[-1]
        while segment_numbers(self.folder)[-1] == number:
            self.append_lines(1, 500)

    @rule(jump_ns=st.sampled_from([-(10**12), -1, 0, 10**15]))
    def set_clock(self, jump_ns: int) -> None:
        self.clock.now_ns += jump_ns

    @rule()
    def sync(self) -> None:
        self.journal.sync()

    # -- reading, acknowledging, deleting -------------------------------------------------------------------------

    @rule(max_points=st.sampled_from([1, 10, 1000]), bounded=st.booleans())
    def follow(self, max_points: int, bounded: bool) -> None:
        """The shipper reads up to what the writer has finished; another process reads what it can."""
        for number, entry in self.follower.read(max_points, self.journal.position if bounded else None):
            self.followed.add(number, entry)

    @precondition(lambda self: self.followed.ends)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        """Also an older position than before, as a second shipper may."""
        position = data.draw(st.sampled_from(self.followed.ends))
        before = load_ack(self.folder, TARGET)
        save_ack(self.folder, TARGET, before.moved(position, delivered=1))
        assert load_ack(self.folder, TARGET) == Ack(max(before.position, position), before.delivered + 1)

    @rule()
    def delete_acknowledged_segments(self) -> None:
        for number in segment_numbers(self.folder):
            if number < split_position(self.acked())[0]:
                (self.folder / segment_name(number)).unlink()

    @rule()
    def read_from_the_ack(self) -> None:
        assert read_back(self.folder, self.acked(), max_points=13).records == self.since(self.acked())

    # -- crashing -------------------------------------------------------------------------------------------------

    @rule(tail=st.sampled_from(sorted(TAILS)), where=st.floats(0, 1), begun=st.sampled_from([None, 0, 30, HEADER.size]))
    def crash(self, tail: str, where: float, begun: int | None) -> None:
        """Cut or overwritten from any byte after the ack; perhaps the next segment had been begun."""
        copy = self.root / "crashed"
        shutil.copytree(self.folder, copy)
        number, end = split_position(self.journal.position)
        first = max(HEADER.size, self.acked() - position_of(number, 0))
        byte = round(first + where * (end - first))
        path = copy / segment_name(number)
        path.write_bytes(path.read_bytes()[:byte] + TAILS[tail])
        if begun is not None:
            (copy / segment_name(number + 1)).write_bytes(bytes(begun))

        found = read_back(copy, load_ack(copy, TARGET).position, max_points=13)
        expected = self.since(self.acked())
        least = len([end for end in self.ends if self.acked() < end <= position_of(number, byte)])
        assert found.records[:least] == expected[:least]
        # A record that ends in zeros may survive zeroing, and only the one that was hit.
        assert found.records == expected[: len(found.records)]
        assert len(found.records) <= least + 1
        assert all(damage.torn for damage in found.damage)
        shutil.rmtree(copy)

    # -- always ---------------------------------------------------------------------------------------------------

    @invariant()
    def a_follower_has_read_a_beginning_of_what_was_appended(self) -> None:
        if hasattr(self, "followed"):
            assert self.followed.records == self.records[: len(self.followed.records)]
            assert self.followed.ends == self.ends[: len(self.followed.ends)]
            assert self.followed.damage == []


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
