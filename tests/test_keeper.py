"""Bounds of a journal: what goes first, what never goes, and that every point given up is counted, kill -9 or not."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metriclog import journal as journal_module
from metriclog.acks import Ack, save_ack
from metriclog.backing import SPARE
from metriclog.errors import JournalFullError
from metriclog.journal import Journal
from metriclog.keeper import MOST_AT_ONCE, Bounds, Keeper, Policy, recover
from metriclog.receipts import Delivery, Receipt
from metriclog.segments import LOSS, Text, gone_name, position_of, segment_numbers
from tests.faults.disks import Disk
from tests.journals import META, Clock, log, read_back

SEGMENT_BYTES = 4096  # each is about 4.5 KB: META, shapes, about 60 records
ROOMY = 1 << 40
FULL = 200  # steps that fill more than two segments


class Kept:
    """A journal with a keeper, and a shipper that does only what the test says."""

    def __init__(self, folder: Path, policy: Policy = "drop_oldest", **limits: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        bounds = {"max_bytes": ROOMY, "retain_bytes": ROOMY, "free_floor_bytes": 0, **limits}
        self.delivery = Delivery()
        self.keeper = Keeper(folder, Bounds(policy=policy, **bounds), self.delivery)
        clock = Clock()
        self.journal = Journal.create(folder, META, segment_bytes=SEGMENT_BYTES, clock=clock, room=self.keeper)
        self.receipts: list[Receipt] = []

    def log(self, count: int = FULL) -> None:
        """Log the next steps, each with two points; what finds no room is counted, as a run does."""
        for step in range(len(self.receipts), len(self.receipts) + count):
            try:
                self.receipts.append(Receipt(self.delivery, log(self.journal, {"a": step, "b": -step}, step)))
            except JournalFullError as error:
                self.journal.lose(2)
                self.receipts.append(Receipt(Delivery(verdict=error), 1))

    def deliver(self, segment: int) -> None:
        """The server has every segment before this one."""
        self.delivery.advance(position_of(segment, 100))

    @property
    def numbers(self) -> list[int]:
        """The segments on disk."""
        return segment_numbers(self.journal.directory)

    @property
    def size_bytes(self) -> int:
        """What the journal takes on disk, all of it."""
        return sum(path.stat().st_size for path in self.journal.directory.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "0001-h1"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a refusal the journal tries again at once, not after a second."""
    monkeypatch.setattr(journal_module, "RETRY_FULL_S", 0.0)


def losses(folder: Path) -> dict[str, int]:
    """The sums over the LOSS records in a directory."""
    texts = [entry.json() for _, entry in read_back(folder).entries if isinstance(entry, Text) and entry.kind == LOSS]
    return {name: sum(text[name] for text in texts) for name in ("dropped", "gone")}


def held(folder: Path) -> int:
    """Points in the segments of a directory."""
    return 2 * len(read_back(folder).steps)


# -- what goes, and in which order ------------------------------------------------------------------------------


def test_within_its_bounds_nothing_goes(folder: Path) -> None:
    kept = Kept(folder)
    kept.log(2000)
    assert kept.numbers == list(range(1, len(kept.numbers) + 1))
    assert (kept.journal.dropped, losses(folder)) == (0, {"dropped": 0, "gone": 0})


def test_what_is_delivered_goes_first_and_only_as_far_as_need_be(folder: Path) -> None:
    kept = Kept(folder, max_bytes=20 * SEGMENT_BYTES)
    kept.log(600)
    last = kept.numbers[-1]
    kept.deliver(last)
    kept.log(600)
    assert kept.journal.dropped == 0
    assert kept.numbers[0] > 1
    assert losses(folder)["gone"] == 2 * 1200 - held(folder)


def test_the_oldest_are_given_up_where_nothing_is_delivered_and_each_point_is_counted(folder: Path) -> None:
    kept = Kept(folder, max_bytes=8 * SEGMENT_BYTES)
    kept.log(3000)
    steps = read_back(folder).steps
    assert steps == list(range(3000 - len(steps), 3000))
    assert kept.journal.dropped == losses(folder)["dropped"] == 2 * (3000 - len(steps))
    assert losses(folder)["gone"] == 0


def test_counts_outlive_the_segments_they_were_written_into(folder: Path) -> None:
    """In a long outage the segment that tells of a loss is given up itself."""
    kept = Kept(folder, max_bytes=6 * SEGMENT_BYTES)
    for _ in range(20):
        kept.log(300)
        assert losses(folder)["dropped"] == kept.journal.dropped == 2 * len(kept.receipts) - held(folder)
    kept.journal.lose(7)
    kept.deliver(kept.numbers[-1])
    kept.log(1500)
    kept.journal.close()
    found = losses(folder)
    assert found["dropped"] == kept.journal.dropped
    assert found["dropped"] + found["gone"] + held(folder) == 2 * len(kept.receipts) + 7


def test_the_journal_never_takes_more_than_its_bound(folder: Path) -> None:
    kept = Kept(folder, max_bytes=10 * SEGMENT_BYTES)
    for _ in range(300):
        kept.log(10)
        kept.journal.sync()  # lays the next segment by
        assert kept.size_bytes <= 10 * SEGMENT_BYTES
    assert kept.journal.dropped > 0


def test_what_the_shipper_has_read_is_not_given_up(folder: Path) -> None:
    kept = Kept(folder, max_bytes=8 * SEGMENT_BYTES)
    kept.log(FULL)
    kept.deliver(1)
    kept.keeper.reading = lambda: position_of(2, 500)  # of segment 1 something is on its way, of segment 2 it reads
    kept.log(3000)
    assert kept.numbers[:2] == [1, 2]
    assert kept.numbers[2] > 10
    assert kept.journal.dropped == losses(folder)["dropped"] == 2 * 3200 - held(folder)


def test_where_all_that_may_go_would_not_do_nothing_goes(folder: Path, disk: Disk) -> None:
    kept = Kept(folder, free_floor_bytes=1 << 20)
    kept.log(1000)
    disk.free_bytes = 0
    before = kept.numbers
    kept.log(FULL)
    assert kept.numbers == before
    lost = [receipt for receipt in kept.receipts if receipt.exception() is not None]
    assert len(lost) * 2 == kept.journal.dropped > 0
    disk.free_bytes = None
    kept.log(1)
    kept.journal.close()
    assert losses(folder)["dropped"] == kept.journal.dropped == 2 * len(kept.receipts) - held(folder)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Disk:
    return Disk(monkeypatch, tmp_path)


def test_what_is_free_on_the_disk_does_not_fall_below_the_floor(folder: Path, disk: Disk) -> None:
    kept = Kept(folder, free_floor_bytes=1 << 20)
    kept.log(1000)
    disk.free_bytes = (1 << 20) + 4096  # two segments are wanted, one of them to be laid by: there is room for one
    number = kept.numbers[-1]
    while kept.numbers[-1] == number:
        kept.log(1)
    assert 1 < kept.numbers[0] <= 3
    assert 0 < kept.journal.dropped == 2 * len(kept.receipts) - held(folder)


@pytest.mark.parametrize("policy", ["block", "raise"])
def test_other_policies_give_nothing_up_that_is_not_delivered(folder: Path, policy: Policy) -> None:
    kept = Kept(folder, policy, max_bytes=8 * SEGMENT_BYTES)
    kept.log(1000)
    assert kept.numbers[0] == 1
    with pytest.raises(JournalFullError, match="METRICLOG_JOURNAL_MAX_BYTES=32768"):
        log(kept.journal, {"a": 1.0}, 1)
    kept.deliver(4)
    kept.journal.retry()
    log(kept.journal, {"a": 1.0}, 1)
    assert kept.numbers[0] > 1


def test_of_what_is_delivered_as_much_is_kept_as_is_to_be_and_the_rest_goes_little_by_little(folder: Path) -> None:
    kept = Kept(folder, retain_bytes=5 * SEGMENT_BYTES)
    kept.log(3000)
    number = len(kept.numbers)
    kept.deliver(kept.numbers[-1])
    while kept.numbers[-1] == number:
        kept.log(1)
    assert kept.numbers[0] == 1 + MOST_AT_ONCE
    kept.log(6 * FULL)
    delivered = [name for name in kept.numbers if name < number]
    assert 0 < len(delivered) * SEGMENT_BYTES <= 5 * SEGMENT_BYTES
    assert kept.journal.dropped == 0
    assert losses(folder)["gone"] == 2 * len(kept.receipts) - held(folder)


def test_what_a_sync_beside_it_delivered_counts_as_delivered(folder: Path) -> None:
    """Also offline: then no shipper of this process knows. With two targets, both must have it."""
    kept = Kept(folder, max_bytes=8 * SEGMENT_BYTES)
    kept.log(300)
    save_ack(folder, "one", Ack(position=position_of(4, 100)))
    save_ack(folder, "two", Ack(position=position_of(3, 100)))
    kept.log(100)
    while kept.numbers[0] < 3:
        assert kept.journal.dropped == 0
        kept.log(1)
    kept.log(300)
    assert kept.journal.dropped > 0


def test_receipts_of_what_was_given_up_say_so_and_others_do_not(folder: Path) -> None:
    kept = Kept(folder, max_bytes=8 * SEGMENT_BYTES)
    kept.log(1500)
    present = set(read_back(folder).steps)
    kept.delivery.advance(kept.journal.position)
    for step, receipt in enumerate(kept.receipts):
        assert receipt.delivered == (step in present)
        assert isinstance(receipt.exception(), JournalFullError) != (step in present)


# -- segments that somebody else deletes ------------------------------------------------------------------------


def test_a_segment_that_somebody_deleted_is_counted_when_its_turn_comes(folder: Path) -> None:
    kept = Kept(folder, max_bytes=8 * SEGMENT_BYTES)
    kept.log(300)
    (folder / "00000001.seg").unlink()
    kept.log(1500)
    assert kept.journal.dropped == losses(folder)["dropped"] == 2 * 1800 - held(folder)


# -- a disk that fails meanwhile --------------------------------------------------------------------------------


def test_a_segment_that_cannot_be_deleted_is_tried_again_and_counted_once(folder: Path, disk: Disk) -> None:
    kept = Kept(folder, max_bytes=8 * SEGMENT_BYTES)
    kept.log(400)
    disk.fails("delete", code=errno.EIO)
    kept.log(300)
    assert len(list(folder.glob("*.gone"))) > 0
    assert losses(folder)["dropped"] == kept.journal.dropped
    copy = shutil.copytree(folder, folder.parent / "dead")
    disk.heals()
    recover(copy)
    assert list(copy.glob("*.gone")) == []
    assert held(copy) + losses(copy)["dropped"] == 2 * 700
    kept.log(100)
    assert list(folder.glob("*.gone")) == []
    assert held(folder) + losses(folder)["dropped"] == 2 * 800


def test_where_the_next_segment_cannot_be_made_the_losses_are_told_all_the_same(folder: Path, disk: Disk) -> None:
    """Space comes free before there is need of it: on a full disk nothing else would help."""
    kept = Kept(folder, max_bytes=8 * SEGMENT_BYTES)
    kept.log(400)
    disk.fails("allocate")
    kept.log(50)
    while not kept.journal.dropped:
        kept.log(1)
    assert list(folder.glob("*.gone")) == []
    assert 0 < losses(folder)["dropped"] == kept.journal.dropped - kept.journal.ledger.unsaid
    disk.heals()
    kept.log(100)
    kept.journal.close()
    assert losses(folder)["dropped"] == kept.journal.dropped == 2 * len(kept.receipts) - held(folder)


def test_what_finds_no_room_to_be_told_is_not_given_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(folder, max_bytes=8 * SEGMENT_BYTES)
    kept.log(250)
    before = kept.numbers
    monkeypatch.setattr(Journal, "_say", lambda *_: False)
    kept.log(FULL)
    monkeypatch.undo()
    monkeypatch.setattr(journal_module, "RETRY_FULL_S", 0.0)
    assert kept.numbers[: len(before)] == before
    assert list(folder.glob("*.gone")) == []
    kept.log(FULL)
    assert losses(folder)["dropped"] == kept.journal.dropped == 2 * len(kept.receipts) - held(folder)


# -- kill -9 in between -----------------------------------------------------------------------------------------


class Steps:
    """Copies the directory as `kill -9` would leave it: before each system call that names a file, and after."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kept: Kept) -> None:
        self.copies: list[tuple[str, Path, int]] = []  # (call, copy, points logged by then)
        self._kept, self._folder = kept, kept.journal.directory
        for name in ("rename", "replace", "unlink", "truncate"):
            monkeypatch.setattr(os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            inside = Path(path).parent == self._folder
            if inside:
                self._copy(f"before {name} {Path(path).name}")
            result = real(path, *arguments, **options)
            if inside:
                self._copy(f"after {name} {Path(path).name}")
            return result

        return call

    def _copy(self, moment: str) -> None:
        copy = self._folder.parent / "copies" / str(len(self.copies))
        copy.mkdir(parents=True)
        for path in self._folder.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
        self.copies.append((moment, copy, self._kept.journal.points + self._kept.journal.ledger.unsaid))


@pytest.mark.parametrize("delivered", [False, True])
def test_killed_at_any_step_of_giving_up_a_segment_every_point_is_there_or_counted_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, delivered: bool
) -> None:
    kept = Kept(folder, max_bytes=8 * SEGMENT_BYTES)
    kept.log(400)
    steps = Steps(monkeypatch, kept)
    for _ in range(4):
        if delivered:
            kept.deliver(kept.numbers[-1])
        kept.log(100)
        kept.journal.sync()
    monkeypatch.undo()
    moments = [moment for moment, _, _ in steps.copies]
    assert len([moment for moment in moments if moment.startswith("after rename")]) >= 4
    assert len([moment for moment in moments if moment.startswith("after unlink") and ".gone" in moment]) >= 4
    for moment, copy, logged in steps.copies:
        for _ in range(2):  # a recovery that is killed is done again
            recover(copy)
            found = losses(copy)
            assert held(copy) + found["dropped"] + found["gone"] == logged, moment
            assert list(copy.glob("*.gone")) == [], moment
            assert not (copy / SPARE).exists()
            assert read_back(copy).damage == [], moment


def test_two_recoveries_at_once_do_each_other_no_harm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(folder)
    kept.log(400)
    kept.journal.close()
    for number in (1, 2):
        (folder / f"{number:08d}.seg").rename(folder / gone_name(number))
    real = Path.rename

    def slow(path: Path, to: Path) -> Path:
        if path.suffix == ".gone":
            monkeypatch.setattr(Path, "rename", real)
            recover(folder)  # the other comes first
        return real(path, to)

    monkeypatch.setattr(Path, "rename", slow)
    recover(folder)
    assert read_back(folder).steps == list(range(400))


def test_a_segment_named_by_a_loss_that_was_itself_set_aside_is_deleted(folder: Path) -> None:
    """Killed when both were set aside: the first is told in the second, the second nowhere yet."""
    kept = Kept(folder, max_bytes=8 * SEGMENT_BYTES)
    kept.log(800)
    kept.journal.close()
    telling = next(
        number
        for number, entry in read_back(folder).entries
        if isinstance(entry, Text) and entry.kind == LOSS and entry.json()["dropped"]
    )
    named = next(
        entry.json()["segments"][0][0]
        for number, entry in read_back(folder).entries
        if number == telling and isinstance(entry, Text) and entry.kind == LOSS
    )
    (folder / f"{telling:08d}.seg").rename(folder / gone_name(telling))
    (folder / gone_name(named)).write_bytes((folder / gone_name(telling)).read_bytes())
    recover(folder)
    assert telling in segment_numbers(folder)
    assert named not in segment_numbers(folder)
    assert list(folder.glob("*.gone")) == []
