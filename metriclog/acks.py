"""Acks: how far a target has said yes to a process directory, as one small file per target."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Ack:
    """How far a target said yes, and the counts up to there."""

    position: int = 0
    delivered: int = 0
    quarantined: int = 0
    damaged: int = 0

    def moved(self, position: int, **counts: int) -> Ack:
        """A later ack; the position never goes back, so that two shippers are harmless."""
        grown = {name: getattr(self, name) + count for name, count in counts.items()}
        return replace(self, position=max(self.position, position), **grown)


def load_ack(directory: Path, target: str) -> Ack:
    """The ack of a target; a missing or unreadable file means: nothing yet, send again (a resend is harmless)."""
    try:
        loaded = json.loads((directory / f"ack-{target}.json").read_bytes())
        return Ack(**{name: int(loaded[name]) for name in Ack.__dataclass_fields__})
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return Ack()


def save_ack(directory: Path, target: str, ack: Ack) -> None:
    """Write the ack: temporary file, fsync, rename. Only after the server's yes."""
    path = directory / f"ack-{target}.json"
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    body = json.dumps({name: getattr(ack, name) for name in Ack.__dataclass_fields__})
    with open(partial, "w", encoding="ascii") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
