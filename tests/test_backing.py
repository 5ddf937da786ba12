"""What a segment is written into: what is stored is in the file, and a failing disk neither tears nor glues."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from metriclog.backing import LOCK, SPARE, Backing, Buffered, Mapped, Place
from metriclog.replay import owner_is_alive
from tests.faults.disks import Disk

SIZE = 8192
DATA = bytes(range(256)) * 32


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Disk:
    return Disk(monkeypatch, tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "00000001.seg"


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """No test leaves a descriptor open."""
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


# -- mapped -----------------------------------------------------------------------------------------------------


def test_a_store_into_a_mapping_is_in_the_file_at_once(path: Path) -> None:
    backing = Mapped(path, SIZE)
    backing.view[:100] = DATA[:100]
    assert path.read_bytes() == DATA[:100] + bytes(SIZE - 100)
    backing.forget()


def test_the_blocks_of_a_mapping_are_reserved_and_its_file_is_private(path: Path) -> None:
    backing = Mapped(path, SIZE)
    status = path.stat()
    assert status.st_blocks * 512 >= SIZE
    assert status.st_mode & 0o777 == 0o600
    backing.forget()


def test_a_closed_mapping_is_cut_to_what_was_written(path: Path) -> None:
    backing = Mapped(path, SIZE)
    backing.view[:100] = DATA[:100]
    backing.close(100)
    assert (path.read_bytes(), backing.closed) == (DATA[:100], True)


@pytest.mark.parametrize("trouble", ["flush", "cut"])
def test_a_mapping_is_closed_also_where_the_disk_fails_and_its_bytes_stay(path: Path, disk: Disk, trouble: str) -> None:
    backing = Mapped(path, SIZE)
    backing.view[:100] = DATA[:100]
    disk.fails(trouble, code=errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        backing.close(100)
    assert backing.closed
    assert path.read_bytes()[:100] == DATA[:100]


def test_a_mapping_whose_file_was_deleted_is_closed_in_peace_and_can_be_written_again(path: Path) -> None:
    backing = Mapped(path, SIZE)
    backing.view[:100] = DATA[:100]
    path.unlink()
    backing.rewrite(100)
    assert path.read_bytes() == DATA[:100]
    path.unlink()
    backing.close(100)
    assert not path.exists()


def test_a_full_disk_is_an_error_when_the_mapping_is_made_and_leaves_no_file(path: Path, disk: Disk) -> None:
    disk.fails("allocate")
    with pytest.raises(OSError, match="No space left"):
        Mapped(path, SIZE)
    assert not path.exists()


def test_a_file_that_an_attempt_left_behind_does_not_stand_in_the_way(path: Path, disk: Disk) -> None:
    disk.fails("allocate", code=errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        Mapped(path, SIZE)
    path.write_bytes(b"left behind")
    disk.heals()
    backing = Mapped(path, SIZE)
    assert path.read_bytes() == bytes(SIZE)
    backing.forget()


# -- buffered ---------------------------------------------------------------------------------------------------


def test_there_is_no_file_before_the_first_save(path: Path) -> None:
    backing = Buffered(path, SIZE)
    backing.view[:100] = DATA[:100]
    assert not path.exists()
    backing.save(0)
    assert path.read_bytes() == b""
    backing.forget()


def test_a_save_writes_what_is_new(path: Path) -> None:
    backing = Buffered(path, SIZE)
    for end in (10, 10, 300, 301, SIZE):
        backing.view[:end] = DATA[:end]
        backing.save(end)
        assert path.read_bytes() == DATA[:end]
    backing.close(SIZE)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.ESTALE])
def test_bytes_that_a_failing_disk_did_not_take_are_written_when_it_is_well_and_nothing_is_glued(
    path: Path, disk: Disk, code: int
) -> None:
    backing = Buffered(path, SIZE)
    backing.view[:] = DATA
    backing.save(1000)
    disk.fails("write", code=code)
    for end in (2000, 3000):
        with pytest.raises(OSError, match=os.strerror(code)):
            backing.save(end)
    assert path.read_bytes() == DATA[:1000]
    disk.heals()
    backing.save(4000)
    assert path.read_bytes() == DATA[:4000]
    backing.forget()


def test_short_writes_are_gone_on_with(path: Path, disk: Disk) -> None:
    backing = Buffered(path, SIZE)
    backing.view[:] = DATA
    disk.writes_short(7)
    backing.save(1000)
    assert path.read_bytes() == DATA[:1000]
    backing.forget()


def test_a_buffer_stays_open_until_its_bytes_are_in_the_file(path: Path, disk: Disk) -> None:
    backing = Buffered(path, SIZE)
    backing.view[:] = DATA
    disk.fails("create", code=errno.EROFS)
    with pytest.raises(OSError, match="Read-only"):
        backing.close(SIZE)
    disk.heals()
    disk.fails("write")
    with pytest.raises(OSError, match="No space"):
        backing.close(SIZE)
    assert not backing.closed
    disk.heals()
    backing.close(SIZE)
    assert (path.read_bytes(), backing.closed) == (DATA, True)


def test_a_buffer_whose_file_was_deleted_is_written_again_from_its_start(path: Path) -> None:
    backing = Buffered(path, SIZE)
    backing.view[:] = DATA
    backing.save(1000)
    path.unlink()
    backing.rewrite(2000)
    backing.save(3000)
    assert path.read_bytes() == DATA[:3000]
    backing.close(SIZE)


# -- the place --------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    folder = tmp_path / "0001-h1"
    folder.mkdir()
    made = Place(folder, SIZE, buffered=False)
    made.lock()
    yield made
    made.let_go()
    assert not owner_is_alive(folder)


def test_the_lock_says_that_the_owner_lives_until_it_lets_go(place: Place) -> None:
    assert owner_is_alive(place.directory)
    place.let_go()
    assert not owner_is_alive(place.directory)


def test_what_is_laid_by_becomes_the_next_segment_with_a_rename(place: Place, disk: Disk) -> None:
    place.lay_by()
    place.lay_by()
    assert disk.asked["allocate"] == 1
    disk.fails("allocate")
    backing = place.fresh("00000002.seg", SIZE)
    assert sorted(path.name for path in place.directory.iterdir()) == ["00000002.seg", LOCK]
    assert backing.path.name == "00000002.seg"
    backing.forget()


def test_a_segment_needed_while_one_is_being_laid_by_is_another_one(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at one name: one of them would be written into without a file that anybody could read."""
    taken: list[Backing] = []

    def meanwhile(fresh: Mapped) -> None:
        taken.append(place.fresh("00000002.seg", SIZE))
        place.next = None

    monkeypatch.setattr(Mapped, "warm", meanwhile)
    place.lay_by()
    taken.append(place.fresh("00000003.seg", SIZE))
    for number, backing in enumerate(taken, 2):
        backing.view[:4] = f"{number:4}".encode()
        assert (place.directory / f"{number:08d}.seg").read_bytes()[:4] == f"{number:4}".encode()
        backing.forget()
    assert sorted(path.name for path in place.directory.iterdir()) == ["00000002.seg", "00000003.seg", LOCK]


def test_what_is_laid_by_but_too_small_gives_way(place: Place) -> None:
    place.lay_by()
    backing = place.fresh("00000002.seg", 2 * SIZE)
    assert backing.size == 2 * SIZE
    assert not (place.directory / SPARE).exists()
    backing.forget()


def test_what_is_laid_by_stays_where_the_rename_fails(place: Place, disk: Disk) -> None:
    place.lay_by()
    disk.fails("rename", code=errno.EROFS)
    with pytest.raises(OSError, match="Read-only"):
        place.fresh("00000002.seg", SIZE)
    disk.heals()
    disk.fails("allocate")
    place.fresh("00000002.seg", SIZE).forget()


def test_a_disk_without_room_lays_nothing_by_and_says_nothing(place: Place, disk: Disk) -> None:
    disk.fails("allocate")
    place.lay_by()
    assert [path.name for path in place.directory.iterdir()] == [LOCK]


def test_a_spare_that_another_process_left_is_not_taken_for_a_fresh_one(place: Place) -> None:
    (place.directory / SPARE).write_bytes(b"old" * SIZE)
    place.lay_by()
    backing = place.fresh("00000002.seg", SIZE)
    assert bytes(backing.view[:]) == bytes(SIZE)
    backing.forget()


def test_buffered_nothing_is_laid_by(tmp_path: Path) -> None:
    place = Place(tmp_path, SIZE, buffered=True)
    place.lay_by()
    assert (list(tmp_path.iterdir()), place.ahead_bytes) == ([], 0)
    assert isinstance(place.fresh("00000001.seg", SIZE), Buffered)


def test_a_directory_that_vanished_is_seen_and_made_again(place: Place) -> None:
    assert not place.vanished()
    place.lay_by()
    for path in place.directory.iterdir():
        path.unlink()
    place.directory.rmdir()
    assert place.vanished()
    place.make_again()
    place.lock()
    assert not place.vanished()
    assert owner_is_alive(place.directory)


@pytest.mark.parametrize("way", [Mapped, Buffered])
def test_in_a_forked_child_nothing_is_touched(tmp_path: Path, way: Callable[[Path, int], Mapped | Buffered]) -> None:
    backing = way(tmp_path / "00000001.seg", SIZE)
    backing.view[:] = DATA
    backing.save(500)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    backing.forget()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert backing.closed
