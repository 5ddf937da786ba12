"""The account of one journal: what each segment holds, what was lost, and how much of the loss is written down. Pure.

A LOSS record is {"dropped": points, "gone": points, "segments": [[first, last], …]}: what could not be kept since the
last one, what was delivered and then deleted, and the segments deleted with it. Where a segment that holds LOSS records
is deleted, its counts go into the next one: so the sum over all that are left stays right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(slots=True)
class Kept:
    """What a segment holds: bytes on disk, points (once it is sealed), and the losses written down in it."""

    size_bytes: int
    points: int = 0
    dropped: int = 0
    gone: int = 0


@dataclass(frozen=True, slots=True)
class Doomed:
    """A segment that goes: points delivered before, points that never will be, and the LOSS counts it held."""

    number: int
    gone: int
    dropped: int
    said_gone: int = 0
    said_dropped: int = 0

    @classmethod
    def of(cls, number: int, kept: Kept, *, delivered: bool) -> Doomed:
        """A segment that was delivered, or will never be."""
        gone, dropped = (kept.points, 0) if delivered else (0, kept.points)
        return cls(number, gone, dropped, kept.gone, kept.dropped)


class Room(Protocol):
    """Decides what may be given up when the journal grows beyond its bounds."""

    def choose(self, kept: Mapping[int, Kept], current: int, size_bytes: int) -> tuple[Sequence[Doomed], str | None]:
        """Set aside, as `.gone`, what must go for `size_bytes` more; and why that does not do, or None."""

    def put_back(self, doomed: Sequence[Doomed]) -> None:
        """Undo `choose`."""

    def write_off(self, kept: Mapping[int, Kept], numbers: Sequence[int]) -> Sequence[Doomed]:
        """What is lost with segments that somebody else deleted."""


class Ledger:
    """Not for several threads: the journal's lock is held."""

    def __init__(self) -> None:
        self.kept: dict[int, Kept] = {}  # by segment number
        self.dropped = 0  # points of this process, for whatever reason
        self.refused = 0  # of these: never appended
        self.unsaid = 0  # of these: not in a LOSS record yet
        self.set_aside: list[int] = []  # said to be deleted, perhaps not deleted yet

    def lose(self, points: int) -> None:
        """Count points that could not be kept."""
        self.refused += points
        self.dropped += points
        self.unsaid += points

    def loss(self, doomed: Sequence[Doomed]) -> dict[str, Any]:
        """The next LOSS record, if these segments go."""
        return {
            "dropped": self.unsaid + sum(segment.dropped + segment.said_dropped for segment in doomed),
            "gone": sum(segment.gone + segment.said_gone for segment in doomed),
            "segments": as_ranges([*self.set_aside, *(segment.number for segment in doomed)]),
        }

    def said(self, loss: Mapping[str, Any], doomed: Sequence[Doomed], number: int) -> None:
        """This LOSS record has been written into segment `number`."""
        self.unsaid -= loss["dropped"] - sum(segment.dropped + segment.said_dropped for segment in doomed)
        self.dropped += sum(segment.dropped for segment in doomed)
        self.set_aside += (segment.number for segment in doomed)
        self.kept[number].dropped += loss["dropped"]
        self.kept[number].gone += loss["gone"]
        for segment in doomed:
            self.kept.pop(segment.number, None)

    def deleted(self, delete: Callable[[int], bool]) -> None:
        """Delete what was said to be; what cannot be is tried, and said, again with the next."""
        self.set_aside = [number for number in self.set_aside if not delete(number)]


def as_ranges(numbers: Iterable[int]) -> list[list[int]]:
    """`[1, 2, 3, 7]` as `[[1, 3], [7, 7]]`."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges


def in_ranges(ranges: Iterable[Sequence[int]]) -> set[int]:
    """The numbers of `as_ranges`."""
    return {number for first, last in ranges for number in range(first, last + 1)}
