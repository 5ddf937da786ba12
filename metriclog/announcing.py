"""Tells Prometheus where the jobs of this host listen: one file each, in a folder that `file_sd_configs` watches.

A file lives as long as its process: it is held with flock, so whether its owner lives is the kernel's word. What
killed processes left stays for an hour, so that Prometheus sees that they are gone and somebody is told; then the next
one that starts takes it away. The labels begin with `__meta_`: Prometheus offers
them for relabelling and stores none of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from metriclog import files

logger = logging.getLogger("metriclog")

FOLDER_MODE, FILE_MODE = 0o755, 0o644  # Prometheus is another user
FOUND_DEAD_MODE = 0o444  # its owner was found dead when the file was changed last
WRITING_S, REMEMBERED_S = 60.0, 3600.0
OURS = "__meta_metriclog_pid"


class Announcement:
    """A file that says where to scrape this process. Raises `OSError` if it cannot be written."""

    def __init__(self, folder: Path, address: str) -> None:
        self._pid = os.getpid()
        self._path = folder / f"{_prefix()}{self._pid}-{os.urandom(4).hex()}.json"
        partial = self._path.with_name(f".{self._path.name}.tmp")  # which `*.json` does not match
        self._lock = files.open_lock(partial)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fchmod(self._lock, FILE_MODE)
            os.write(self._lock, _target(address))
            partial.rename(self._path)
        except BaseException:
            partial.unlink(missing_ok=True)
            files.close_lock(self._lock)
            raise

    def close(self) -> None:
        """Take it away; in a forked child nothing, it is the parent's."""
        if self._pid == os.getpid():
            with contextlib.suppress(OSError):
                self._path.unlink()
            files.close_lock(self._lock)


def announce(folder: Path, address: str) -> Announcement | None:
    """Announce `host:port` in this folder until it is closed or the process ends; None, and a warning, if it cannot."""
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(FOLDER_MODE)  # whatever the umask
        remove_stale(folder)
        return Announcement(folder, address)
    except OSError as error:
        logger.warning(
            "metriclog: %s cannot be announced in %s: %s. Set METRICLOG_PROMETHEUS_SD_DIR to a folder that this user "
            "can write; training goes on", address, folder, error.strerror or error,
        )  # fmt: skip
        return None


def remove_stale(folder: Path, clock: Callable[[], float] = time.time) -> None:
    """Remove what processes of this host announced that were found dead an hour ago. Files of others stay."""
    for path in _candidates(folder):
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its owner lives
                if _is_ours(fd, path) and _is_forgotten(fd, path, clock()):
                    path.unlink()
            finally:
                os.close(fd)


def _candidates(folder: Path) -> Iterator[Path]:
    """Files of this host by name: on a folder that hosts share, the locks of the others may not be seen here."""
    name = re.compile(rf"\.?{re.escape(_prefix())}\d+-[0-9a-f]{{8}}\.json(\.tmp)?")
    return (path for path in folder.iterdir() if name.fullmatch(path.name))


def _is_ours(fd: int, path: Path) -> bool:
    if path.suffix == ".tmp":  # its owner died in the middle of it, unless it has just come and is locked next
        return time.time() - os.fstat(fd).st_mtime > WRITING_S
    try:
        (group,) = json.loads(os.read(fd, 64 << 10))
        return OURS in group["labels"]
    except (ValueError, TypeError, KeyError):
        return False


def _is_forgotten(fd: int, path: Path, now_s: float) -> bool:
    """Whether it was found dead long ago; if nobody had noticed, it is noted now. Nobody scrapes half a file."""
    found = os.fstat(fd)
    if path.suffix == ".tmp":
        return True
    if stat.S_IMODE(found.st_mode) == FOUND_DEAD_MODE:
        return now_s - found.st_mtime > REMEMBERED_S
    os.utime(fd, (now_s, now_s))
    os.fchmod(fd, FOUND_DEAD_MODE)
    return False


def _prefix() -> str:
    host = re.sub(r"[^A-Za-z0-9._]+", "_", os.uname().nodename) or "host"
    return f"metriclog-{host}-"


def _target(address: str) -> bytes:
    labels = {"__meta_metriclog_host": os.uname().nodename, OURS: str(os.getpid())}
    return json.dumps([{"targets": [address], "labels": labels}]).encode() + b"\n"
