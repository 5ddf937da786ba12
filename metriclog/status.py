"""What `metriclog status` tells: per process directory what is accepted, delivered, pending, since when and why."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metriclog import files, quarantine
from metriclog.acks import load_ack
from metriclog.directory import process_directories, read_meta
from metriclog.errors import JournalError
from metriclog.replay import JournalReader, beyond, owner_is_alive
from metriclog.segments import LINES, LOSS, Damage, Entry, Text, Values


@dataclass(slots=True)
class State:
    """One process directory, in points. `pending_since_ns` is the time stamp of the oldest pending point."""

    run: str
    directory: str
    host: str | None = None
    pid: int | None = None
    alive: bool = False
    journal_io: str = "mmap"
    accepted: int = 0
    delivered: int = 0
    pending: int = 0
    pending_since_ns: int | None = None
    trouble: str | None = None
    quarantined: int = 0
    quarantine_file: str | None = None
    dropped: int = 0
    damaged: int = 0


def collect(root: Path, target: str) -> list[State]:
    """The state of every process directory below `root`, for one target. Reads the journals whole."""
    return [_state_or_why_not(path, target) for path in process_directories(root)]


def count_pending(path: Path, target: str) -> int:
    """Points of one process directory that wait for the target."""
    return _state(path, target).pending


def _state_or_why_not(path: Path, target: str) -> State:
    try:
        return _state(path, target)
    except (JournalError, OSError) as error:
        return State(path.parent.name, str(path), trouble=f"cannot be read: {error}")


def _state(path: Path, target: str) -> State:
    meta = read_meta(path) or {}
    ack = load_ack(path, target)
    state = State(path.parent.name, str(path), meta.get("host"), meta.get("pid"), owner_is_alive(path))
    state.journal_io = meta.get("journal_io", "mmap")
    reader = JournalReader(path)
    while found := reader.read(200_000):
        for number, entry in found:
            _count(entry, number, ack.position, state)
    reader.close()
    refused = quarantine.load(path, target)
    by_hand = len(quarantine.load(path, target, "dropped"))
    state.quarantined = len(refused)
    state.quarantine_file = str(path / f"quarantine-{target}.jsonl") if refused else None
    state.dropped += by_hand
    state.accepted += state.dropped - by_hand
    state.delivered = state.accepted - state.pending - state.quarantined - state.dropped
    state.trouble = load_trouble(path, target) if state.pending else None
    return state


def _count(entry: Entry, number: int, acked: int, state: State) -> None:
    if isinstance(entry, Damage):
        state.damaged += not entry.torn
        return
    state.accepted += entry.points
    if isinstance(entry, Text) and entry.kind == LOSS:
        lost: dict[str, Any] = entry.json()
        state.dropped += lost["dropped"]
        state.accepted += lost.get("gone", 0)
    left = beyond(entry, number, acked)
    if left is not None:
        state.pending += left.points
        times = (state.pending_since_ns, _first_time_ns(left))
        state.pending_since_ns = min((time_ns for time_ns in times if time_ns is not None), default=None)


def _first_time_ns(entry: Values | Text) -> int | None:
    if isinstance(entry, Values):
        return int(entry.rows[0][0])
    if entry.kind != LINES:
        return None
    with contextlib.suppress(ValueError):  # no line protocol: the server will say so, and it goes into quarantine
        return int(entry.body.split(b"\n", 1)[0].rpartition(b" ")[2])
    return None


def save_trouble(path: Path, target: str, words: str | None) -> None:
    """Leave the server's last words beside the journal, for `status` in another process; None when all is well."""
    file = path / f"trouble-{target}.json"
    if words is None:
        file.unlink(missing_ok=True)
        return
    files.replace(file, json.dumps({"words": words}).encode())


def load_trouble(path: Path, target: str) -> str | None:
    """The server's last words, or None."""
    try:
        return str(json.loads((path / f"trouble-{target}.json").read_bytes())["words"])
    except (OSError, ValueError, KeyError):
        return None
