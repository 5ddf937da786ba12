"""The journal directory: which runs and processes are in it, run ids, and what `resume` means."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from metriclog import files, segments
from metriclog.errors import (
    JournalError,
    MetricNameError,
    RunActiveError,
    RunExistsError,
    RunNotFoundError,
    UsageError,
)
from metriclog.points import RUN_ID
from metriclog.replay import owner_is_alive
from metriclog.segments import META, SegmentReader, Text, Values

Resume = Literal["never", "allow", "must"]
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that look alike
_ID_RANDOM_CHARS = 5  # 28 million: with 1,000 runs of one name a clash has a chance of 2 %, and is refused, not merged


@dataclass(frozen=True, slots=True)
class Claim:
    """A fresh process directory, and what is known of the run it continues."""

    path: Path
    run_id: str
    slot: int
    attempt: int
    started_ns: int | None
    next_step: int


def make_run_id(name: str | None, experiment: str, model: str | None, params: Mapping[str, Any] | None) -> str:
    """A readable, unique id such as `resnet-lr0.1-k3f9q`."""
    base = name or model or experiment
    rate = next((params[key] for key in ("lr", "learning_rate") if params and key in params), None)
    if name is None and isinstance(rate, (int, float)):
        base = f"{base}-lr{rate:g}".replace("+", "")
    base = re.sub(r"[^A-Za-z0-9._-]+", "-", base).strip("-.")[:80] or "run"
    return f"{base}-{''.join(_LETTERS[byte % len(_LETTERS)] for byte in os.urandom(_ID_RANDOM_CHARS))}"


def check_run_id(run_id: str) -> str:
    """Return the id if it can name a directory and a tag, else raise `MetricNameError`."""
    if not isinstance(run_id, str) or not RUN_ID.fullmatch(run_id):
        raise MetricNameError(f"run_id {run_id!r}: use 1 to 128 letters, digits, '.', '_' or '-', not '.' first")
    return run_id


@contextlib.contextmanager
def claim(root: Path, run_id: str, experiment: str, rank: int | None, resume: Resume) -> Iterator[Claim]:
    """A process directory of its own for this process. The claim is exclusive until the block ends.

    Raises `RunExistsError`, `RunNotFoundError`, `RunActiveError`, or `JournalError` if DIR cannot be written.
    """
    if resume not in ("never", "allow", "must"):
        raise UsageError(f'resume must be "never", "allow" or "must", not {resume!r}')
    run_dir = root / run_id
    if resume == "must" and not process_directories(root, run_id):
        raise RunNotFoundError(f'run {run_id!r} is not in {root}: nothing to resume. Use resume="allow" to start it')
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        run_dir.mkdir(mode=0o700, exist_ok=True)
        lock_fd = files.open_lock(run_dir / ".claim")
    except OSError as error:
        why = f"cannot write in {run_dir}: {error.strerror}. Set METRICLOG_DIR to a folder that can be written"
        raise JournalError(why) from error
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(lock_fd, fcntl.LOCK_EX)
        earlier = [meta for meta in map(read_meta, process_directories(root, run_id)) if meta]
        _check(earlier, run_id, experiment, rank, resume)
        yield _take(run_dir, run_id, rank, earlier)
    finally:
        files.close_lock(lock_fd)


def child_directory(root: Path, run_id: str) -> tuple[Path, int]:
    """A process directory for a forked child, and its slot. Joins a run without asking."""
    path, number = _next_directory(root / run_id)
    return path, number


def process_directories(root: Path, run_id: str | None = None) -> list[Path]:
    """Process directories of one run or of all, oldest first within a run. One that goes meanwhile is left out."""
    runs = [root / run_id] if run_id else _folders(root, "*")
    return [path for run in runs for path in _folders(run, "[0-9][0-9][0-9][0-9]*-*")]


def _folders(parent: Path, pattern: str) -> list[Path]:
    with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
        return sorted(path for path in parent.glob(pattern) if path.is_dir())
    return []


def predecessor(path: Path) -> Path | None:
    """The process directory of the attempt before this one, of the same rank; None for a first attempt and a child.

    Raises `JournalError` if it is there no more.
    """
    own = read_meta(path)
    if own is None or own.get("child"):
        return None
    found = None
    for earlier in process_directories(path.parent.parent, path.parent.name):
        meta = read_meta(earlier) if earlier.name < path.name else None
        if meta is not None and meta["rank"] == own["rank"] and not meta.get("child"):
            found = meta
    missing = own.get("attempt", 1) - 1 - (found.get("attempt", 1) if found else 0)
    if missing > 0:  # a number may come twice: attempts are counted among those that are there
        raise JournalError(f"the journal of the attempt before {path} is there no more")
    return found["path"] if found else None


def read_meta(directory: Path) -> dict[str, Any] | None:
    """Who writes this directory (its META record), with `path`; None if no segment can say."""
    for number in segments.segment_numbers(directory):
        with contextlib.suppress(OSError, ValueError, JournalError):
            meta = _segment_meta(directory / segments.segment_name(number))
            if meta is not None:
                return {**meta.json(), "path": directory}
    return None


def _segment_meta(path: Path) -> Text | None:
    reader = SegmentReader(path)
    try:
        entries = reader.read(reader.size(), 1, settled=True)  # up to the first point
        return next((entry for entry in entries if isinstance(entry, Text) and entry.kind == META), None)
    finally:
        reader.close()


def last_step(directory: Path) -> int | None:
    """The step of the last values record in a process directory."""
    for number in reversed(segments.segment_numbers(directory)):
        step: int | None = None
        reader = SegmentReader(directory / segments.segment_name(number))
        for entry in reader.read(reader.size(), 1 << 62, settled=True):
            if isinstance(entry, Values):
                step = int(entry.rows[-1][1])
        reader.close()
        if step is not None:
            return step
    return None


def _check(earlier: list[dict[str, Any]], run_id: str, experiment: str, rank: int | None, resume: Resume) -> None:
    for meta in earlier:
        if meta["experiment"] != experiment:
            raise RunExistsError(f"run {run_id!r} belongs to experiment {meta['experiment']!r}; choose another run_id")
    same = [meta for meta in earlier if meta["rank"] == rank and not meta.get("child")]
    for meta in same:
        if owner_is_alive(meta["path"]):
            hint = "Give each process its rank=, or wait until it ends"
            raise RunActiveError(f"run {run_id!r} is being written by process {meta['pid']} on {meta['host']}. {hint}")
    if same and resume == "never":
        raise RunExistsError(f'run {run_id!r} is already in the journal. Use resume="allow" to continue it')


def _take(run_dir: Path, run_id: str, rank: int | None, earlier: list[dict[str, Any]]) -> Claim:
    same = [meta for meta in earlier if meta["rank"] == rank and not meta.get("child")]
    steps = (last_step(meta["path"]) for meta in reversed(same))  # an attempt may have logged nothing
    newest = next((step for step in steps if step is not None), -1)
    path, number = _next_directory(run_dir)
    return Claim(
        path=path,
        run_id=run_id,
        slot=number,
        attempt=len(same) + 1,
        started_ns=min((meta["started_ns"] for meta in earlier), default=None),
        next_step=newest + 1,
    )


def _next_directory(run_dir: Path) -> tuple[Path, int]:
    host = re.sub(r"[^A-Za-z0-9._]+", "_", os.uname().nodename) or "host"
    taken = [int(path.name[:4]) for path in run_dir.glob("[0-9][0-9][0-9][0-9]-*")]
    for number in range(max(taken, default=0) + 1, 10_000):
        path = run_dir / f"{number:04d}-{host}"
        try:
            path.mkdir(mode=0o700)
            return path, number
        except FileExistsError:
            continue
        except OSError as error:
            raise JournalError(f"cannot make {path}: {error.strerror}") from error
    raise JournalError(f"{run_dir} has 9,999 process directories; start a new run")
