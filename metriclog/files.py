"""Small files beside a journal: private to the user, replaced as a whole or not at all, locked by one process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from pathlib import Path

# A lock of flock is held by all who share its descriptor. So a forked child lets go of it at once: it would hold the
# lock for as long as it lives, also when its parent is dead. No fork comes between opening a file and noting that.
_locks: set[int] = set()
_noting = threading.RLock()


def private(path: str, flags: int) -> int:
    """An `opener` for `open()`: a file it makes can be read by nobody else."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def replace(path: Path, body: bytes) -> None:
    """Write a file durably: temporary file, fsync, rename. `OSError` passes through and leaves the old one."""
    partial = path.with_suffix(f".{os.urandom(6).hex()}.tmp")  # not by pid: other hosts have the same ones
    try:
        with open(partial, "wb", opener=private) as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def open_lock(path: Path) -> int:
    """Open a file to be locked with flock. `OSError` passes through."""
    with _noting:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _locks.add(fd)
    return fd


def close_lock(fd: int) -> None:
    """Unlock and close; in a forked child, where that has been done, nothing."""
    with _noting:
        if fd in _locks:
            _locks.remove(fd)
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)  # a child that is being forked shares it for a moment
            os.close(fd)


def _after_fork() -> None:
    while _locks:
        os.close(_locks.pop())
    _noting.release()


os.register_at_fork(before=_noting.acquire, after_in_parent=_noting.release, after_in_child=_after_fork)
