"""What a journal segment is written into: a mapped file, or memory that a background thread writes out.

Mapped: a store survives kill -9 at once. Not for network file systems, where it can end in SIGBUS. Buffered: a store
survives kill -9 once `save` has written it out; the loss window is the interval between two saves.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path

PREFAULT = getattr(mmap, "MAP_POPULATE", 0)


class Mapped:
    """A preallocated file of zeros, mapped. Its blocks are reserved: a full disk is an OSError here, not a SIGBUS."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(fd, 0, size)
            else:  # macOS
                os.write(fd, bytes(size))
            self.view: mmap.mmap | bytearray = mmap.mmap(fd, size, flags=mmap.MAP_SHARED | PREFAULT)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)

    def written(self, end: int) -> int:
        """How far other readers of the file can read, of `end` bytes stored."""
        return end

    def save(self, _end: int) -> None:
        """Ask the system to bring the bytes to the disk: against a power cut, not needed against kill -9."""
        assert isinstance(self.view, mmap.mmap)
        self.view.flush()

    def close(self, end: int) -> None:
        """Save, unmap and cut the file to `end` bytes. `OSError` passes through."""
        assert isinstance(self.view, mmap.mmap)
        self.view.flush()
        with contextlib.suppress(FileNotFoundError):  # delivered and deleted already
            os.truncate(self.path, end)
        self.view.close()

    def forget(self) -> None:
        """Unmap without touching a byte: in a forked child the bytes are the parent's."""
        assert isinstance(self.view, mmap.mmap)
        self.view.close()


class Buffered:
    """Memory of the same size, written out with `write(2)` by whoever calls `save`."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self.view: mmap.mmap | bytearray = bytearray(size)
        self._saved = 0
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def written(self, end: int) -> int:
        """How far other readers of the file can read, of `end` bytes stored."""
        return min(self._saved, end)

    def save(self, end: int) -> None:
        """Write out what is new up to `end`. `OSError` passes through; the next call tries the same bytes again."""
        while self._saved < end:
            self._saved += os.pwrite(self._fd, memoryview(self.view)[self._saved : end], self._saved)

    def close(self, end: int) -> None:
        """Save and close. `OSError` passes through."""
        self.save(end)
        self.forget()

    def forget(self) -> None:
        """Close the file without writing."""
        os.close(self._fd)


Backing = Mapped | Buffered
