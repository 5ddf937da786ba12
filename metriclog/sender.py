"""Sending lines until each has its own yes or a reason why it never will: retry, back off, split. Knows tenacity.

Passing trouble is retried without limit. A configuration error (401, 404, …) keeps everything and retries slowly. Only
what the server can never take is given back as refused, with the server's reason.
"""

from __future__ import annotations

import contextlib
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NoReturn, Protocol

import tenacity

from metriclog.errors import (
    BadRequestError,
    PartialWriteError,
    RejectedError,
    ServerError,
    TooLargeError,
    TransientError,
    UnparsableError,
)
from metriclog.points import parse_line
from metriclog.seldom import WARN_EVERY_S

logger = logging.getLogger("metriclog")

FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.5, 60.0
FIRST_REJECTED_S, MAX_REJECTED_S = 30.0, 300.0
URGENT_BACKOFF_S = 0.5  # while somebody waits in flush() or finish()
MAX_SUSPECTS = 8  # lines the server fails on, one by one, without any yes, before it is taken for the server's fault
SHORTEST_SHARD_NS = 3600 * 10**9
SURELY_LARGE_BYTES = 64 << 10  # of one line that is too large; of a shorter one, the answer is doubted
MAX_SAME_500 = 5  # answers 500 to the same body from a server that says it is well, before the body is suspected

_CONFLICT = re.compile(r'field type conflict: input field "(.+?)" on measurement "(.+?)" is type')

Refused = list[tuple[bytes, str]]


class Target(Protocol):
    """What the sender needs of a transport."""

    target: str

    @property
    def address(self) -> str:
        """Where it writes, for messages."""

    def write(self, lines: bytes) -> None:
        """Post lines or raise a `ServerError`."""

    def healthy(self) -> bool:
        """Whether the server says that it is well; never raises."""

    def another(self) -> Target:
        """A target of its own for another thread, to the same place."""

    def close(self) -> None:
        """Drop the connections."""


@dataclass(slots=True)
class Control:
    """Stop, wake and hurry, shared between senders and those who wait for them; clock and randomness to pass in."""

    stop: threading.Event = field(default_factory=threading.Event)
    woken: threading.Event = field(default_factory=threading.Event)
    urgent_until_s: float = 0.0
    clock: Callable[[], float] = time.monotonic
    rng: random.Random = field(default_factory=random.Random)
    give_up_after_s: float | None = None  # without any success; None: never
    trouble: Callable[[str | None], None] = lambda _: None  # told the server's last words, None when all is well
    retried: int = 0
    last_error: str | None = None
    warned_s: dict[str, float] = field(default_factory=dict)
    told: bool = False  # whether the user knows of the trouble, and wants to know of its end

    def hurry(self, seconds: float) -> None:
        """Somebody waits: try now, and again soon, for the next `seconds`."""
        self.urgent_until_s = self.clock() + seconds
        self.woken.set()

    def end(self) -> None:
        """Stop as soon as the request under way allows."""
        self.stop.set()
        self.woken.set()

    def warn(self, words: str, *details: object) -> bool:
        """Log a warning, unless there was one of these words within WARN_EVERY_S; whether it was logged."""
        late = self.clock() - self.warned_s.get(words, -WARN_EVERY_S) >= WARN_EVERY_S
        if late:
            self.warned_s[words] = self.clock()
            logger.warning(f"metriclog: {words}", *details)
        return late

    def sleep(self, seconds: float) -> None:
        """Sleep, but wake at once when somebody waits or at the end."""
        if not self.stop.is_set():
            self.woken.wait(seconds)
        self.woken.clear()


class _SuspectError(ServerError):
    """The server fails on this body again and again while it says that it is well."""


class Sender:
    """Delivers lines to one target. Not for several threads."""

    def __init__(self, target: Target, control: Control, goods: str = "points") -> None:
        self._target, self._control, self._goods = target, control, goods
        self.successes = self._before = 0
        self._suspects: list[tuple[bytes, ServerError]] = []
        self._same_500 = 0
        self._last_yes_s = control.clock()
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((TransientError, RejectedError)),
            wait=self._backoff_s,
            stop=self._must_stop,
            sleep=control.sleep,
            before_sleep=self._say,
            reraise=True,
        )

    def deliver(self, lines: Sequence[bytes]) -> Refused:
        """Return when each line has its own yes or is refused. Raises the last `ServerError` when told to stop.

        A line on which the server only fails, without a reason of its own, is refused if it took others meanwhile.
        Where it took nothing, it may be the request, a proxy, or a full disk: all is kept, and the error raised.
        """
        self._suspects, self._before = [], self.successes
        refused = self._sift(lines)
        if self._suspects and self.successes == self._before:
            self._keep(self._suspects[0][1])
        return refused + [(line, str(error)) for line, error in self._suspects if not self._takes_now(line, error)]

    def _takes_now(self, line: bytes, error: ServerError) -> bool:
        """Whether the server takes a line now on which it failed before it took others: it may have been ill then."""
        if isinstance(error, _SuspectError):
            with contextlib.suppress(ServerError):
                self._target.write(line)
                return True
        return False

    def _sift(self, lines: Sequence[bytes]) -> Refused:
        refused: Refused = []
        while lines:
            try:
                self.send(b"".join(lines))
                break
            except UnparsableError as error:
                named = [(line, why) for line in lines if (why := error.reasons.get(line.rstrip(b"\n")))]
                if not named:
                    return refused + self._halve(lines, error)
                refused += named
                bad = {line for line, _ in named}
                lines = [line for line in lines if line not in bad]
            except PartialWriteError as error:
                return refused + self._sort_out(lines, error)
            except (TooLargeError, BadRequestError, _SuspectError) as error:
                return refused + self._halve(lines, error)
        return refused

    def _keep(self, error: ServerError) -> NoReturn:
        self._tell(error)
        if self._control.give_up_after_s is None:
            self._control.sleep(FIRST_REJECTED_S)
        raise error

    def send(self, body: bytes) -> None:
        """Return at the server's yes. Raises what cannot be retried, or the last trouble when told to stop."""
        self._same_500 = 0
        self._retrying(self._write, body)
        self.successes += 1
        self._last_yes_s = self._control.clock()
        if self._control.last_error is not None:
            self._control.last_error = None
            self._control.trouble(None)
            if self._control.told:
                self._control.told = False
                logger.warning("metriclog: %s takes %s again", self._target.address, self._goods)

    def _write(self, body: bytes) -> None:
        try:
            self._target.write(body)
        except TransientError as error:
            self._same_500 += error.status == 500
            if self._same_500 >= MAX_SAME_500 and self._target.healthy():
                raise _SuspectError(str(error), status=error.status) from error
            raise

    def _sort_out(self, lines: Sequence[bytes], error: PartialWriteError) -> Refused:
        """After a partial write: set apart what the server's words point at, so that the rest is proven in one go."""
        if len(lines) == 1 and _is_stored(error):
            self.successes += 1
            self._control.warn("the server left a field out of a point that it stored. %s", error)
            return []
        if len(lines) == 1:
            return [(lines[0], str(error))]
        bound_ns = _retention_bound_ns(str(error))
        old = {line for line in lines if _time_ns(line) < bound_ns}
        if old:
            kept = [line for line in lines if line not in old]
            return [(line, str(error)) for line in lines if line in old] + self._sift(kept)
        conflict = _CONFLICT.search(str(error))
        if conflict is None:
            return self._halve(lines, error)
        hit = [_has_field(line, conflict[2], conflict[1]) for line in lines]
        if all(hit):
            return self._judge_by_the_ends(sorted(lines, key=_time_ns), error)
        parts = [
            [line for line, is_hit in zip(lines, hit, strict=True) if is_hit is wanted] for wanted in (False, True)
        ]
        return self._sift(parts[0]) + self._sift(parts[1]) if any(hit) else self._halve(lines, error)

    def _judge_by_the_ends(self, lines: Sequence[bytes], error: PartialWriteError) -> Refused:
        """Lines in order of time that all have the field in conflict. Its type is fixed for a shard: a range of time.

        Of less than the shortest shard, at most two share such lines: what holds at both ends holds between them.
        """
        if len(lines) <= 3 or _time_ns(lines[-1]) - _time_ns(lines[0]) >= SHORTEST_SHARD_NS:
            return self._halve(lines, error)
        between = lines[1:-1]
        ends = self._sift(lines[:1]) + self._sift(lines[-1:])
        return ends + ([(line, str(error)) for line in between] if len(ends) == 2 else self._halve(between, error))

    def _halve(self, lines: Sequence[bytes], error: ServerError) -> Refused:
        if len(lines) == 1:
            return self._suspect(lines[0], error)
        halves = [lines[: len(lines) // 2], lines[len(lines) // 2 :]]
        if self._control.rng.random() < 0.5:  # so that a few bad lines in front cannot hide all the good ones for ever
            halves.reverse()
        return self._sift(halves[0]) + self._sift(halves[1])

    def _suspect(self, line: bytes, error: ServerError) -> Refused:
        """Refuse a single line if the server's word can be believed by itself; else wait for what it says of others."""
        if isinstance(error, TooLargeError) and len(line) > SURELY_LARGE_BYTES:
            return [(line, str(error))]
        self._suspects.append((line, error))
        if len(self._suspects) >= MAX_SUSPECTS and self.successes == self._before:
            self._keep(error)
        return []

    def _must_stop(self, _state: tenacity.RetryCallState) -> bool:
        limit_s = self._control.give_up_after_s
        late = limit_s is not None and self._control.clock() - self._last_yes_s >= limit_s
        return late or self._control.stop.is_set()

    def _backoff_s(self, state: tenacity.RetryCallState) -> float:
        pause_s, limit_s = self._pause_s(state), self._control.give_up_after_s
        if limit_s is None:
            return pause_s
        return min(pause_s, max(0.0, self._last_yes_s + limit_s - self._control.clock()))  # the last try is then

    def _pause_s(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        attempt = min(state.attempt_number, 12)
        control = self._control
        wish_s = error.retry_after_s if isinstance(error, TransientError) else None
        if control.clock() < control.urgent_until_s:
            return max(URGENT_BACKOFF_S, min(wish_s or 0.0, control.urgent_until_s - control.clock()))
        if wish_s:  # a wish for no pause at all gets the usual one
            return max(0.05, wish_s)
        if isinstance(error, RejectedError):
            return min(MAX_REJECTED_S, FIRST_REJECTED_S * 2.0 ** (attempt - 1)) * control.rng.uniform(0.5, 1.0)
        return max(0.05, control.rng.uniform(0.0, min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0**attempt)))

    def _say(self, state: tenacity.RetryCallState) -> None:
        self._control.retried += 1
        self._tell(state.outcome.exception() if state.outcome else None)

    def _tell(self, error: BaseException | None) -> None:
        control, words = self._control, str(error)
        if words != control.last_error:
            control.last_error = words
            control.trouble(words)
        if control.warn(f"{self._goods} wait in the journal; still trying. %s", words):
            control.told = True


def _is_stored(error: PartialWriteError) -> bool:
    """A field was left out, the point itself is there: InfluxDB's answer to a field named `time`."""
    return error.status == 422 and "has been stripped" in str(error) and "dropped=0" in str(error)


def _has_field(line: bytes, measurement: str, field_name: str) -> bool:
    """Whether a line is of this measurement and has this field."""
    try:
        point = parse_line(line.decode().rstrip("\n"))
    except ValueError:
        return False
    return point.measurement == measurement and field_name in point.fields


def _time_ns(line: bytes) -> int:
    """The time stamp of a line; for what is no line, one that no bound reaches."""
    try:
        return int(line.rpartition(b" ")[2])
    except ValueError:
        return 1 << 63


def _retention_bound_ns(words: str) -> int:
    """The lower bound of the retention policy that a 422 names, in ns; a very low one if it names none."""
    match = re.search(r"Lower Bound at (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?Z", words)
    if match is None:
        return -(1 << 63)
    seconds = round(datetime.fromisoformat(match[1] + "+00:00").timestamp())
    return seconds * 10**9 + int((match[2] or ".0")[1:].ljust(9, "0")[:9])
