"""What `metriclog status` tells: per process directory what is accepted, delivered, pending, since when and why."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metriclog import quarantine
from metriclog.acks import load_ack
from metriclog.directory import process_directories, read_meta
from metriclog.replay import JournalReader, owner_is_alive
from metriclog.segments import LINES, LOSS, Damage, Entry, Text, Values, position_of


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
    return [_state(path, target) for path in process_directories(root)]


def count_pending(path: Path, target: str) -> int:
    """Points of one process directory that wait for the target."""
    return _state(path, target).pending


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
    if position_of(number, entry.end) > acked:
        left = _unacked(entry, number, acked)
        state.pending += left.points
        times = (state.pending_since_ns, _first_time_ns(left))
        state.pending_since_ns = min((time_ns for time_ns in times if time_ns is not None), default=None)


def _unacked(entry: Values | Text, number: int, acked: int) -> Values | Text:
    """The part of an entry beyond the ack: rows read in one stretch may have been shipped in two."""
    if isinstance(entry, Text) or acked <= position_of(number, entry.start):
        return entry
    size = (entry.end - entry.start) // len(entry.rows)
    done = (acked - position_of(number, entry.start)) // size
    return Values(entry.shape, entry.rows[done:], entry.start + done * size, entry.end)


def _first_time_ns(entry: Values | Text) -> int | None:
    if isinstance(entry, Values):
        return int(entry.rows[0][0])
    return int(entry.body.split(b"\n", 1)[0].rsplit(b" ", 1)[1]) if entry.kind == LINES else None


def save_trouble(path: Path, target: str, words: str | None) -> None:
    """Leave the server's last words beside the journal, for `status` in another process; None when all is well."""
    file = path / f"trouble-{target}.json"
    if words is None:
        file.unlink(missing_ok=True)
        return
    partial = file.with_suffix(".tmp")
    partial.write_text(json.dumps({"words": words}), encoding="utf-8")
    partial.replace(file)


def load_trouble(path: Path, target: str) -> str | None:
    """The server's last words, or None."""
    try:
        return str(json.loads((path / f"trouble-{target}.json").read_bytes())["words"])
    except (OSError, ValueError, KeyError):
        return None
