"""What a journal segment is written into: a mapped file, or memory that a background thread writes out.

Mapped: a store survives kill -9 at once. Not for network file systems, where it can end in SIGBUS. Buffered: a store
survives kill -9 once `save` has written it out; the loss window is the interval between two saves.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import time
from pathlib import Path

from metriclog import files

WARM_BYTES = 256 << 10  # pages made at a time: what holds the interpreter, and with it the training, for about 0.1 ms
SPARE, NEXT = "laid-by.spare", "next.spare"  # a segment to come: made in the background, and by who needs one now
LOCK = "owner.lock"


class Mapped:
    """A preallocated file of zeros, mapped. Its blocks are reserved: a full disk is an OSError here, not a SIGBUS."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self.closed = False
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            fd = os.open(path, flags, 0o600)
        except FileExistsError:  # left by an attempt that failed half way; nobody else makes files here
            path.unlink()
            fd = os.open(path, flags, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(fd, 0, size)
            else:  # macOS
                os.write(fd, bytes(size))
            self.view: mmap.mmap | bytearray = mmap.mmap(fd, size, flags=mmap.MAP_SHARED)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)

    def save(self, _end: int) -> None:
        """Ask the system to bring the bytes to the disk: against a power cut, not needed against kill -9.

        Not with `mmap.flush` where there is another way: it keeps the interpreter's lock while the disk is at work.
        """
        assert isinstance(self.view, mmap.mmap)
        if not hasattr(os, "fdatasync"):  # macOS, where only msync knows of stores into a mapping
            self.view.flush()
            return
        with contextlib.suppress(FileNotFoundError):  # delivered and deleted already
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.fdatasync(fd)
            finally:
                os.close(fd)

    def warm(self) -> None:
        """Have the pages ready before somebody waits for them; for a segment that nobody writes into yet."""
        zeros = bytes(WARM_BYTES)
        for start in range(0, self.size, WARM_BYTES):
            stop = min(start + WARM_BYTES, self.size)
            self.view[start:stop] = zeros[: stop - start]
            time.sleep(0)  # lets go of the interpreter

    def close(self, end: int) -> None:
        """Save, cut the file to `end` bytes, unmap. `OSError` passes through, and it is closed all the same."""
        with contextlib.ExitStack() as stack:  # a mapping kept would cost a descriptor, and its bytes are safe
            stack.callback(self.forget)
            stack.callback(self._cut, end)
            self.save(end)

    def _cut(self, end: int) -> None:
        with contextlib.suppress(FileNotFoundError):  # delivered and deleted already
            os.truncate(self.path, end)

    def forget(self) -> None:
        """Unmap without touching a byte: in a forked child the bytes are the parent's."""
        assert isinstance(self.view, mmap.mmap)
        with contextlib.suppress(BufferError):  # forked while another thread of the parent was reading it
            self.view.close()
        self.closed = True

    def rewrite(self, end: int) -> None:
        """Write the first `end` bytes into a new file of the same name: somebody deleted the old one."""
        with memoryview(self.view) as view:
            files.replace(self.path, bytes(view[:end]))  # at once: a reader may come in between


class Buffered:
    """Memory of the same size, written out with `write(2)` by whoever calls `save`; before that there is no file.

    So a reader that finds a segment knows that the one before it is written to its end.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self.closed = False
        self.view: mmap.mmap | bytearray = bytearray(size)
        self._saved = 0
        self._fd = -1

    def save(self, end: int) -> None:
        """Write out what is new up to `end`. `OSError` passes through; the next call tries the same bytes again."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        while self._saved < end:
            self._saved += os.pwrite(self._fd, memoryview(self.view)[self._saved : end], self._saved)

    def close(self, end: int) -> None:
        """Save and close. `OSError` passes through, and it stays open: the bytes are nowhere else."""
        self.save(end)
        self.forget()

    def forget(self) -> None:
        """Close the file without writing."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        self.closed = True

    def rewrite(self, end: int) -> None:
        """Begin a new file of the same name: somebody deleted the old one."""
        self.forget()
        files.replace(self.path, bytes(self.view[:end]))
        self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        self._saved, self.closed = end, False


Backing = Mapped | Buffered


class Place:
    """A process directory as its writer holds it: the lock that says it lives, fresh segments, one laid by.

    `spare` is laid by in the background; `next` is the segment that somebody is about to take, and theirs alone.
    """

    def __init__(self, directory: Path, segment_bytes: int, *, buffered: bool) -> None:
        self.directory = directory
        self._segment_bytes, self._buffered = segment_bytes, buffered
        self.spare: Backing | None = None
        self.next: Backing | None = None
        self._lock_fd = -1

    def lock(self) -> None:
        """Say that the owner lives: the kernel takes it back when this process ends. `OSError` passes through."""
        files.close_lock(self._lock_fd)
        self._lock_fd = files.open_lock(self.directory / LOCK)
        with contextlib.suppress(OSError):  # no flock here: the owner counts as dead, which costs duplicates only
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX)

    def vanished(self) -> bool:
        """Whether somebody deleted the directory, or all that is in it."""
        return not (self.directory / LOCK).exists()

    def make_again(self) -> None:
        """After it vanished; to be locked when all is in place again. `OSError` passes through."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._forget_fresh()

    def fresh(self, name: str, size: int) -> Backing:
        """An empty segment of at least `size` bytes; it is `next` until that is set to None. `OSError` passes through.

        It is whole before it gets its name: a reader that finds it stays with it.
        """
        if self._buffered:
            return Buffered(self.directory / name, size)
        if self.next is None:
            self.next = self.spare
        if self.next is not None and self.next is self.spare:
            self.spare = None
        if self.next is not None and self.next.size < size:
            self._drop(self.next)
            self.next = None
        if self.next is None:
            self.next = Mapped(self.directory / NEXT, size)
        if self.next.path.name != name:
            with contextlib.suppress(FileNotFoundError):  # named in an attempt that was interrupted; or all is deleted
                self.next.path.replace(self.directory / name)
            self.next.path = self.directory / name
        return self.next

    @property
    def ahead_bytes(self) -> int:
        """What laying by takes beside the segments."""
        return 0 if self._buffered else self._segment_bytes

    def lay_by(self) -> None:
        """Make the segment to come, if there is none, so that a roll costs a rename."""
        if self.spare is None and not self._buffered:
            with contextlib.suppress(OSError):
                spare = Mapped(self.directory / SPARE, self._segment_bytes)
                spare.warm()
                self.spare = spare

    def delete(self, name: str) -> bool:
        """Delete a file; False where that fails."""
        try:
            (self.directory / name).unlink(missing_ok=True)
            return True
        except OSError:
            return False

    def let_go(self) -> None:
        """Delete what is laid by, and release the lock."""
        self._drop(self.spare)
        self._drop(self.next)
        self.forget()

    def forget(self) -> None:
        """In a forked child: let go without touching a file."""
        self._forget_fresh()
        files.close_lock(self._lock_fd)
        self._lock_fd = -1

    def _forget_fresh(self) -> None:
        for fresh in (self.spare, self.next):
            if fresh is not None:
                fresh.forget()
        self.spare = self.next = None

    def _drop(self, fresh: Backing | None) -> None:
        if fresh is not None:
            fresh.forget()
            self.delete(fresh.path.name)
