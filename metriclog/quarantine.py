"""The quarantine of a process directory: points a server can never take as they are, with its reasons.

One JSON object a line in `quarantine-<target>.jsonl`: line, reason, position. What somebody drops by hand moves to
`dropped-<target>.jsonl`, so that the count of what was logged still adds up.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from metriclog import files


@dataclass(frozen=True, slots=True)
class Refused:
    """One point in quarantine: its line, the server's reason, and the end of its record in the journal."""

    line: str
    reason: str
    position: int


def load(directory: Path, target: str, kind: str = "quarantine") -> list[Refused]:
    """What is in quarantine, each line once; a torn last line (a crash while writing) is left out."""
    found: dict[str, Refused] = {}
    try:
        rows = (directory / f"{kind}-{target}.jsonl").read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    for row in filter(None, rows):
        try:
            refused = Refused(**json.loads(row))
        except (ValueError, TypeError):
            continue
        found[refused.line] = refused
    return list(found.values())


def add(directory: Path, target: str, refused: Iterable[Refused], kind: str = "quarantine") -> Path:
    """Append, durably. Returns the file. `OSError` passes through."""
    path = directory / f"{kind}-{target}.jsonl"
    with open(path, "ab+", opener=files.private) as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            file.write(b"" if file.read(1) == b"\n" else b"\n")  # never go on behind what a crash tore
        for one in refused:
            file.write(json.dumps(asdict(one)).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return path


def replace(directory: Path, target: str, kept: list[Refused], kind: str = "quarantine") -> None:
    """Leave only these in quarantine, durably and at once."""
    path = directory / f"{kind}-{target}.jsonl"
    if not kept:
        path.unlink(missing_ok=True)
        return
    files.replace(path, b"".join(json.dumps(asdict(one)).encode() + b"\n" for one in kept))
