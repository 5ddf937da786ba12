"""The journal in trouble: a full disk, a failing disk, deleted segments, a killed owner, a fork."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from metriclog import journal as journal_module
from metriclog import replay
from metriclog.errors import JournalError, JournalFullError
from metriclog.journal import Journal
from metriclog.replay import JournalReader, owner_is_alive
from metriclog.segments import HEADER, position_of, segment_name, segment_numbers, split_position
from tests.journals import META, Clock, Contents, hear, log, make_journal, python, read_back


class Disk:
    """Stands before `posix_fallocate`: full or not, as the test says."""

    def __init__(self) -> None:
        self.full = False
        self.asked = 0

    def fallocate(self, fd: int, offset: int, size: int) -> None:
        """Reserve blocks, or raise what a full disk raises."""
        self.asked += 1
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(fd, offset + size)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """A disk that can be full; the journal tries again at once instead of after a second."""
    disk = Disk()
    monkeypatch.setattr(os, "posix_fallocate", disk.fallocate, raising=False)
    monkeypatch.setattr(journal_module, "RETRY_FULL_S", 0.0)
    return disk


@pytest.fixture
def journal(tmp_path: Path, disk: Disk) -> Iterator[Journal]:
    made = make_journal(tmp_path / "0001-h1")
    yield made
    made.close()


def log_steps(journal: Journal, steps: range) -> tuple[list[int], int]:
    """Log these steps as a run does: what the journal does not take is counted. Returns (steps kept, points lost)."""
    kept, lost = [], 0
    for step in steps:
        try:
            log(journal, {"loss": step, "acc": -step}, step)
            kept.append(step)
        except JournalFullError:
            journal.lose(2)
            lost += 2
    return kept, lost


def test_on_a_full_disk_appending_raises_our_error_and_tears_nothing(journal: Journal, disk: Disk) -> None:
    disk.full = True
    kept, lost = log_steps(journal, range(200))
    assert lost > 0
    contents = read_back(journal.directory)
    assert contents.steps == kept == list(range(len(kept)))
    assert contents.damage == []
    assert segment_numbers(journal.directory) == [1]
    with pytest.raises(JournalFullError, match="No space left on device") as caught:
        journal.append_lines(["m v=1"])
    assert str(journal.directory) in str(caught.value)


def test_when_there_is_room_again_appending_goes_on_and_the_loss_is_written_down(journal: Journal, disk: Disk) -> None:
    kept, lost = log_steps(journal, range(10))
    for round_number in range(1, 4):
        disk.full = True
        kept_full, lost_full = log_steps(journal, range(1000 * round_number, 1000 * round_number + 200))
        disk.full = False
        kept_after, lost_after = log_steps(journal, range(1000 * round_number + 500, 1000 * round_number + 600))
        assert (lost_full > 0, lost_after) == (True, 0)
        kept, lost = kept + kept_full + kept_after, lost + lost_full
        contents = read_back(journal.directory)
        assert (contents.steps, contents.lost, contents.damage) == (kept, lost, [])
    assert journal.dropped == lost
    assert journal.points == 2 * len(kept)


def test_a_loss_is_written_down_once(journal: Journal, disk: Disk) -> None:
    journal.lose(5)
    log_steps(journal, range(500))
    assert len(segment_numbers(journal.directory)) > 3
    assert read_back(journal.directory).lost == 5


def test_a_full_disk_is_asked_again_only_after_a_while(
    journal: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "RETRY_FULL_S", 3600.0)
    disk.full = True
    log_steps(journal, range(200))
    asked = disk.asked
    log_steps(journal, range(200, 10_000))
    assert disk.asked == asked


def test_a_journal_that_has_no_room_to_begin_leaves_nothing_open(tmp_path: Path, disk: Disk) -> None:
    disk.full = True
    with pytest.raises(JournalFullError):
        make_journal(tmp_path / "0001-h1")
    assert not owner_is_alive(tmp_path / "0001-h1")
    assert segment_numbers(tmp_path / "0001-h1") == []
    disk.full = False
    make_journal(tmp_path / "0001-h1").close()


def test_a_journal_in_a_folder_that_is_not_there_is_our_error(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="No such file or directory"):
        Journal.create(tmp_path / "missing", META, segment_bytes=4096, clock=Clock())


def test_a_disk_that_fails_to_truncate_does_not_make_close_fail(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_steps(journal, range(3))

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "truncate", fail)
    journal.close()
    assert read_back(journal.directory).steps == [0, 1, 2]


# -- segments that go while they are read -------------------------------------------------------------------------


def test_a_reader_whose_segment_is_deleted_finishes_it_and_goes_on(journal: Journal) -> None:
    log_steps(journal, range(500))
    reader = JournalReader(journal.directory)
    seen = [row[1] for _, entry in reader.read(4) for row in getattr(entry, "rows", [])]
    first, second, *_ = segment_numbers(journal.directory)
    (journal.directory / segment_name(first)).unlink()
    (journal.directory / segment_name(second)).unlink()
    gap = read_back(journal.directory).steps[0]
    while found := reader.read(100):
        seen += [row[1] for _, entry in found for row in getattr(entry, "rows", [])]
    reader.close()
    assert isinstance(gap, int)
    assert seen == [*range(seen.index(gap)), *range(gap, 500)]


def test_a_reader_told_to_end_within_a_segment_passes_over_nothing_when_a_later_one_has_come_meanwhile(
    journal: Journal,
) -> None:
    """As a shipper that asked how far the journal is a moment before it rolled."""
    log_steps(journal, range(300))
    ends = read_back(journal.directory).ends
    assert split_position(ends[-1])[0] > 3
    reader, seen = JournalReader(journal.directory), []
    for until in [*ends[::7], ends[-1]]:
        while found := reader.read(1000, until):
            seen += [row[1] for _, entry in found for row in getattr(entry, "rows", [])]
    reader.close()
    assert seen == list(range(300))


def test_a_reader_that_asks_for_a_deleted_segment_gets_the_next(journal: Journal) -> None:
    log_steps(journal, range(500))
    everything = read_back(journal.directory)
    (journal.directory / segment_name(1)).unlink()
    second = position_of(2, 0)
    expected = [step for step, end in zip(everything.steps, everything.ends, strict=True) if end > second]
    assert 0 < len(expected) < 500
    for end in everything.ends:
        if end < second:
            assert read_back(journal.directory, end).steps == expected


@pytest.mark.parametrize("cut", [False, True])
def test_a_segment_that_lost_its_seal_is_read_and_then_the_next(journal: Journal, cut: bool) -> None:
    log_steps(journal, range(300))
    journal.close()
    path = journal.directory / segment_name(2)
    content = path.read_bytes()
    path.write_bytes(content[:-16] if cut else content[:-16] + bytes(16))
    contents = read_back(journal.directory)
    assert contents.steps == list(range(300))
    assert [damage.torn for damage in contents.damage] == [True]


def test_a_reader_outlives_the_whole_directory(journal: Journal) -> None:
    log_steps(journal, range(500))
    reader = JournalReader(journal.directory)
    reader.read(4)
    for path in journal.directory.glob("*.seg"):
        path.unlink()
    while reader.read(100):
        pass
    assert reader.read(100) == []
    reader.close()
    assert read_back(journal.directory).records == []
    assert JournalReader(journal.directory / "missing").read(1) == []


def test_a_segment_allocated_but_never_begun_is_no_damage(journal: Journal) -> None:
    log_steps(journal, range(20))
    journal.close()
    for content in (bytes(5000), bytes(HEADER.size), b""):
        (journal.directory / segment_name(2)).write_bytes(content)
        contents = read_back(journal.directory)
        assert (contents.steps, contents.damage) == (list(range(20)), [])


# -- owners -------------------------------------------------------------------------------------------------------

OWNER = """
import sys
from pathlib import Path
from tests.journals import log, make_journal
journal = make_journal(Path(sys.argv[1]), segment_bytes=1 << 16)
for step in range(int(sys.argv[2])):
    log(journal, {"loss": step}, step)
print("ready", flush=True)
sys.stdin.read()
"""


def test_the_owner_is_alive_until_kill_9_and_its_records_stay(tmp_path: Path) -> None:
    folder = tmp_path / "0001-h1"
    with python(OWNER, folder, 5_000) as owner:
        assert hear(owner) == "ready"
        assert owner_is_alive(folder)
        owner.kill()
        owner.wait(30)
        assert not owner_is_alive(folder)
    contents = read_back(folder)
    assert contents.steps == list(range(5_000))
    assert contents.damage == []


def test_a_directory_is_owned_from_create_to_close(tmp_path: Path) -> None:
    folder = tmp_path / "0001-h1"
    assert not owner_is_alive(folder)
    journal = make_journal(folder)
    assert owner_is_alive(folder)
    journal.close()
    assert not owner_is_alive(folder)


def test_a_reader_that_comes_just_before_its_owner_skips_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner appears between the reader's look at its lock and the listing of its segments."""
    folder = tmp_path / "0001-h1"
    owners: list[Journal] = []

    def first_look(directory: Path) -> bool:
        monkeypatch.undo()
        owners.append(make_journal(directory, segment_bytes=1 << 16))
        log_steps(owners[0], range(10))
        return False

    monkeypatch.setattr(replay, "owner_is_alive", first_look)
    reader = JournalReader(folder)
    contents = Contents()
    for _ in range(2):
        for number, entry in reader.read(1000):
            contents.add(number, entry)
        log_steps(owners[0], range(10, 20))
    reader.close()
    owners[0].close()
    assert contents.steps == list(range(20))


def test_a_live_journals_tail_is_waited_for_and_a_dead_ones_is_damage(tmp_path: Path) -> None:
    journal = make_journal(tmp_path / "0001-h1", segment_bytes=1 << 16)
    log(journal, {"loss": 1}, 1)
    path = tmp_path / "0001-h1" / segment_name(1)
    with path.open("r+b") as file:
        file.seek(journal.position & 0xFFFF_FFFF)
        file.write(b"\x20\0\0\0half a record")
    assert read_back(tmp_path / "0001-h1").damage == []
    journal.abandon()
    assert [damage.torn for damage in read_back(tmp_path / "0001-h1").damage] == [True]


FORKED = """
import os
import sys
from pathlib import Path
from metriclog.errors import JournalError
from tests.journals import log, make_journal
journal = make_journal(Path(sys.argv[1]))
for step in range(10):
    log(journal, {"loss": step}, step)
pid = os.fork()
if pid == 0:
    journal.abandon()
    try:
        log(journal, {"loss": 0}, 0)
    except JournalError as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
for step in range(10, 300):
    log(journal, {"loss": step}, step)
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_forked_child_lets_go_of_the_journal_without_touching_it(tmp_path: Path) -> None:
    with python(FORKED, tmp_path / "0001-h1") as parent:
        assert hear(parent) == "this journal is closed"
        assert hear(parent) == "ready"
        assert owner_is_alive(tmp_path / "0001-h1")
        assert read_back(tmp_path / "0001-h1").steps == list(range(300))
