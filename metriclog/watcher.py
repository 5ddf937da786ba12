"""What one process watches of its run: follows its journal, writes what the rules found, calls who wants to know."""

from __future__ import annotations

import contextlib
import fnmatch
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from metriclog.divergence import Detector, Finding, Rule
from metriclog.errors import JournalError, RunFinishedError
from metriclog.follower import Event, Follower
from metriclog.identity import Identity
from metriclog.journal import Journal
from metriclog.peers import Peers
from metriclog.seldom import Seldom
from metriclog.showing import Newest
from metriclog.watching import Notice, Teller

if TYPE_CHECKING:
    from metriclog.settings import Settings

logger = logging.getLogger("metriclog")

MOST_FIRING = 10_000
MOST_CALLS = 1_000  # that wait for the thread which makes them

OnFire = Callable[[Finding], object]


@dataclass(frozen=True, slots=True)
class Wish:
    """What `Run.watch` was told: `rules` None are those that a loss has, an empty tuple is none."""

    metric: str
    rules: tuple[Rule, ...] | None
    on_fire: OnFire | None


def as_rules(metric: str, rule: Rule | Sequence[Rule] | None) -> tuple[Rule, ...] | None:
    """What `Run.watch` takes, as a tuple. Raises `UsageError` for what is no rule."""
    if rule is None:
        return None
    rules = (rule,) if isinstance(rule, Rule) else tuple(rule) if isinstance(rule, Sequence) else (rule,)
    Detector().watch(metric, *rules)
    return rules


class Posts(Protocol):
    """Posts events to somebody."""

    def put(self, events: Sequence[Event], position: int) -> None:
        """These have come, and everything up to `position` has been read. Returns at once."""


class Ear(Protocol):
    """Where a watcher writes: the recorder of its process."""

    should_stop: bool

    def now_ns(self) -> int:
        """A time stamp."""

    def lines(self, lines: Sequence[str], *, patient: bool = True) -> Any:
        """Append points in line protocol."""


class Watcher:
    """Of one journal. `follow` is for any thread; `look` also makes the calls, so that they come from one thread."""

    def __init__(self, who: Identity, journal: Journal, settings: Settings, ear: Ear, posts: Posts | None) -> None:
        self._who, self._ear, self._posts = who, ear, posts
        self._journal = journal
        self._follower = Follower(journal, default=settings.watch, keep_events=posts is not None)
        self._teller = Teller(settings.alert_cooldown_s, settings.alert_max, time.monotonic)
        together = who.rank is not None and who.leads
        self._peers = Peers(who, self._follower.spread_of) if together else None
        self._wishes: list[Wish] = []
        self._firing: dict[tuple[str, str, str], Finding] = {}
        self._calls: deque[tuple[OnFire, Finding]] = deque(maxlen=MOST_CALLS)
        self._lock = threading.RLock()
        self._closed = False
        self._newest: Newest = ({}, None, ())
        self._warned, self._told = Seldom(), Seldom()

    def watch(self, wish: Wish) -> None:
        """Add or change rules."""
        with self._lock:
            self._wishes.append(wish)
            self._follower.watch(wish.metric, wish.rules)

    def look(self, ends_s: float = math.inf) -> bool:
        """Follow, then call; whether there is more to follow."""
        self.follow(ends_s)
        while self._calls:
            call, finding = self._calls.popleft()
            try:
                call(finding)
            except Exception:
                logger.warning("metriclog: on_fire of %s failed", finding.metric, exc_info=True)
        return self._follower.behind and not self._closed

    def follow(self, ends_s: float = math.inf) -> None:
        """Read what was logged since, at the longest until `ends_s` of `time.monotonic`. Never raises."""
        wait_s = min(max(0.0, ends_s - time.monotonic()), threading.TIMEOUT_MAX)
        if not self._lock.acquire(timeout=wait_s):
            return
        try:
            if not self._closed:
                for _ in range(1 if self._posts is None else 2):  # what is written now is to be posted now
                    self._take(self._follower.follow(ends_s))
                if self._peers is not None:
                    self._take(self._peers.follow())
                self._hand_over()
        except RunFinishedError:
            pass  # too late to write anything
        except (OSError, JournalError) as error:
            self._warn(f"the journal in {self._journal.directory} could not be watched: {error}")
        except Exception:  # noqa: BLE001 - of a rule: it must not take the newest values and the webhook with it
            self._warn(f"watching run {self._who.run_id} failed", exc_info=True)
        finally:
            if self._closed:
                self._let_go()
            self._lock.release()

    def newest(self, ends_s: float) -> Newest:
        """Newest values, time of the newest one and what is firing, as far as it can be known by `ends_s`."""
        self.follow(ends_s)
        if self._lock.acquire(timeout=min(max(0.0, ends_s - time.monotonic()), threading.TIMEOUT_MAX)):
            try:
                self._newest = self._follower.latest(), self._follower.last_log_ns, tuple(self._firing.values())
            finally:
                self._lock.release()
        return self._newest

    def last_words(self, step: int) -> None:
        """Write what there is to say at the end."""
        with self._lock, contextlib.suppress(JournalError, RunFinishedError):
            self._write(self._teller.last_words(step))

    def close(self) -> None:
        """Follow nothing any more, and close the files, now or when whoever follows just now is done."""
        self._closed = True
        if self._lock.acquire(timeout=0.0):
            self._let_go()
            self._lock.release()

    def abandon(self) -> None:
        """In a forked child: close the parent's files, whoever holds the lock in the parent."""
        self._lock = threading.RLock()
        self.close()

    def _let_go(self) -> None:
        with contextlib.suppress(OSError):
            self._follower.close()
            if self._peers is not None:
                self._peers.close()

    def _take(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            key = finding.metric, finding.rank, finding.rule
            if finding.recovered:
                self._firing.pop(key, None)
            elif key in self._firing or len(self._firing) < MOST_FIRING:
                self._firing[key] = finding
            if finding.level == "critical" and not finding.recovered:
                self._ear.should_stop = True
            count = self._teller.is_news(finding, self._nonfinite(finding))
            if count:
                self._write(self._teller.notices(finding, count))
                self._call_for(finding)

    def _nonfinite(self, finding: Finding) -> int:
        return self._follower.nonfinite.get(finding.metric, 0) if finding.rule == "nonfinite" else 0

    def _call_for(self, finding: Finding) -> None:
        for wish in self._wishes:
            if wish.on_fire and not finding.recovered and fnmatch.fnmatchcase(finding.metric, wish.metric):
                self._calls.append((wish.on_fire, finding))

    def _write(self, notices: Sequence[Notice]) -> None:
        lines = [
            self._who.event_line(self._ear.now_ns(), it.kind, it.fields, it.step, metric=it.metric) for it in notices
        ]
        if lines:
            self._ear.lines(lines, patient=False)
        for it in notices:
            if it.fields["level"] == "critical":
                self._tell(f"{it.fields['title']}: {it.fields['text']}")

    def _tell(self, words: str) -> None:
        """Who looks at the terminal need not wait for a page."""
        if self._told.now():
            logger.warning("metriclog: run %s: %s", self._who.run_id, words)

    def _hand_over(self) -> None:
        if self._posts is not None:
            events, self._follower.events = self._follower.events, []
            self._posts.put(events, self._follower.position)

    def _warn(self, words: str, *, exc_info: bool = False) -> None:
        if self._warned.now():
            logger.warning("metriclog: %s", words, exc_info=exc_info)
