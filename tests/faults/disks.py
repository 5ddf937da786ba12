"""A disk that fails as a test says: a seam before the system calls with which the journal writes.

    disk = Disk(monkeypatch)
    disk.fails("write", errno.ENOSPC)      # until disk.heals()
    disk.blocks()                          # calls wait until disk.goes_on()

Only what happens below `disk.folder` is touched, where a path is given at all.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LIMIT_S = 60.0
# What each trouble hits. Stores into a mapping never fail here: they reach the page cache.
OPERATIONS: dict[str, tuple[str, ...]] = {
    "allocate": ("posix_fallocate",),
    "write": ("pwrite", "fsync"),
    "create": ("open",),
    "rename": ("rename", "replace"),
    "delete": ("unlink",),
    "cut": ("truncate",),
    "flush": ("fdatasync",),  # or msync, through the mapping
}
EVERYTHING = tuple(OPERATIONS)


class Disk:
    """Stands before the system calls of this process, for the length of a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder = str(folder)
        self.asked: Counter[str] = Counter()
        self.free_bytes: int | None = None  # instead of what the disk has
        self._errors: dict[str, int] = {}
        self._short_bytes: int | None = None
        self._open = threading.Event()
        self._open.set()
        for operation, calls in OPERATIONS.items():
            for call in calls:
                monkeypatch.setattr(os, call, self._before(operation, getattr(os, call)))
        monkeypatch.setattr(os, "statvfs", self._statvfs(os.statvfs))
        monkeypatch.setattr(mmap, "mmap", self._mapping())

    def fails(self, *operations: str, code: int = errno.ENOSPC) -> None:
        """From now on these fail."""
        self._errors |= dict.fromkeys(operations, code)

    def heals(self) -> None:
        """All is well again."""
        self._errors.clear()
        self._short_bytes = None
        self._open.set()

    def writes_short(self, size_bytes: int) -> None:
        """A write takes only so many bytes at a time."""
        self._short_bytes = size_bytes

    def blocks(self) -> None:
        """Writing and flushing do not return, but to the main thread, until `heals`."""
        self._open.clear()

    def _check(self, operation: str) -> None:
        self.asked[operation] += 1
        if operation in ("write", "flush", "cut") and threading.current_thread() is not threading.main_thread():
            assert self._open.wait(LIMIT_S), "the test left the disk blocked"
        if operation in self._errors:
            code = self._errors[operation]
            raise OSError(code, os.strerror(code))

    def _concerns(self, operation: str, arguments: tuple[Any, ...]) -> bool:
        if operation == "create" and not arguments[1] & os.O_CREAT:
            return False
        is_path = isinstance(arguments[0], (str, os.PathLike))
        return not is_path or str(Path(arguments[0]).absolute()).startswith(self.folder)

    def _before(self, operation: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if self._concerns(operation, arguments):
                self._check(operation)
                if real.__name__ == "pwrite" and self._short_bytes is not None:
                    fd, data, offset = arguments
                    return real(fd, data[: self._short_bytes], offset)
            return real(*arguments, **options)

        return call

    def _statvfs(self, real: Callable[..., os.statvfs_result]) -> Callable[..., os.statvfs_result]:
        def call(path: Any) -> os.statvfs_result:
            found = list(real(path))
            if self.free_bytes is not None:
                found[4] = max(0, self.free_bytes) // found[1]  # f_bavail, in units of f_frsize
            return os.statvfs_result(found)

        return call

    def _mapping(self) -> type[mmap.mmap]:
        check = self._check

        class Mapping(mmap.mmap):
            def flush(self, *arguments: int) -> None:
                check("flush")
                super().flush(*arguments)

        return Mapping
