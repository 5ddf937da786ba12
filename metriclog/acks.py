"""Acks: how far a target has said yes to a process directory, as one small file per target."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

from metriclog import files
from metriclog.segments import position_of, segment_name, segment_numbers


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
    """The ack of a target. A file that is missing, altered, or ahead of the journal means: nothing yet, send again.

    A resend is harmless; to believe a wrong ack would pass points over.
    """
    try:
        loaded = json.loads((directory / f"ack-{target}.json").read_bytes())
        ack = Ack(**{name: int(loaded[name]) for name in Ack.__dataclass_fields__})
        return ack if loaded["crc"] == _crc(ack) and not _is_ahead(ack, directory) else Ack()
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return Ack()


def least_position(directory: Path) -> int:
    """How far every target that has an ack here has said yes; 0 where there is none."""
    targets = [path.stem.removeprefix("ack-") for path in directory.glob("ack-*.json")]
    return min((load_ack(directory, target).position for target in targets), default=0)


def _crc(ack: Ack) -> int:
    return zlib.crc32(repr(tuple(getattr(ack, name) for name in Ack.__dataclass_fields__)).encode())


def _is_ahead(ack: Ack, directory: Path) -> bool:
    """Whether it is for bytes that the journal does not have; without a segment there is nothing to pass over."""
    numbers = segment_numbers(directory)
    return bool(numbers) and ack.position > position_of(
        numbers[-1], (directory / segment_name(numbers[-1])).stat().st_size
    )


def save_ack(directory: Path, target: str, ack: Ack) -> None:
    """Write the ack: temporary file, fsync, rename. Only after the server's yes."""
    body = json.dumps({**{name: getattr(ack, name) for name in Ack.__dataclass_fields__}, "crc": _crc(ack)})
    files.replace(directory / f"ack-{target}.json", body.encode())


def forget_ack(directory: Path, target: str) -> None:
    """As if the target had never said yes: everything still in the journal is pending again."""
    (directory / f"ack-{target}.json").unlink(missing_ok=True)
