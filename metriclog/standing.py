"""How far the roll-ups of a process directory are, as one small file per target beside its ack.

    derived-<target>.bin = [position, finished, behind, crc of these] in JSON · line break · the state of the roll-ups

It is written after the delivery of what it covers and before the ack of that: with the first ack, with the first one in
each segment, and at the end of the journal. So what comes after it is still in the journal, and segments that have been
delivered may be deleted. An ack without it is of a metriclog that knew no roll-ups, or somebody lost the file.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

from metriclog import files


@dataclass(frozen=True, slots=True)
class Standing:
    """Everything up to `position` is in `state`, and its lines are delivered.

    `finished`: those of the journal's end too. `behind`: those after `position` are not, though there is an ack.
    """

    position: int
    state: bytes
    finished: bool = False
    behind: bool = False


def load(directory: Path, target: str) -> Standing | None:
    """What is saved; None where there is nothing, or something else."""
    with contextlib.suppress(OSError, ValueError, TypeError), open(_path(directory, target), "rb") as file:
        position, finished, behind = _read_head(file)
        return Standing(position, file.read(), finished, behind)
    return None


def is_finished(directory: Path, target: str, acked: int) -> bool:
    """Whether the lines of the journal's end are delivered, which was at `acked` or later."""
    with contextlib.suppress(OSError, ValueError, TypeError), open(_path(directory, target), "rb") as file:
        position, finished, _ = _read_head(file)
        return finished and position >= acked
    return False


def save(directory: Path, target: str, standing: Standing) -> None:
    """Write it: temporary file, fsync, rename. `OSError` passes through."""
    head = (standing.position, standing.finished, standing.behind)
    files.replace(_path(directory, target), json.dumps([*head, _crc(head)]).encode() + b"\n" + standing.state)


def _read_head(file: BinaryIO) -> tuple[int, bool, bool]:
    *head, crc = json.loads(file.readline(256))
    position, finished, behind = head
    if crc != _crc((position, finished, behind)):
        raise ValueError("a standing that is damaged")
    return position, finished, behind


def _crc(head: tuple[int, bool, bool]) -> int:
    return crc32(repr(head).encode())


def _path(directory: Path, target: str) -> Path:
    return directory / f"derived-{target}.bin"
