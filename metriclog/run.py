"""Run: what a training script holds. The only file that wires journal, delivery, threads, fork and exit together."""

from __future__ import annotations

import logging
import struct
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, SupportsFloat
from urllib.parse import quote

from metriclog import directory, points
from metriclog.errors import (
    JournalError,
    MetricValueError,
    NotDeliveredError,
    RunFinishedError,
    UsageError,
)
from metriclog.identity import Identity
from metriclog.journal import Journal, WriterShape
from metriclog.points import PLAIN_NUMBERS, Tags, as_number, as_step, as_time_ns, check_name, dataset_tag
from metriclog.receipts import Delivery, Receipt
from metriclog.spellings import Dataset, MlflowSpellings

if TYPE_CHECKING:
    from metriclog.background import Heart, Ship
    from metriclog.settings import Settings

logger = logging.getLogger("metriclog")

Status = Literal["finished", "failed", "killed"]
WARN_EVERY_S = 60.0
_MAX_STAMPS = 65_536  # explicit time stamps remembered to keep equal ones apart; about 10 MB

# What makes the fast path of log() give up and ask the slow one, which explains or copes.
_NOT_PLAIN = (KeyError, TypeError, AttributeError, ValueError, OverflowError, struct.error, JournalError)


class Run(MlflowSpellings):
    """One run: made by `metriclog.init`, ended by `finish()` or by leaving its `with` block.

    `log` costs microseconds, touches no network and raises only for misuse, at the caller's line. Threads may share a
    run. After `os.fork` the child goes on in a journal of its own.
    """

    def __init__(self, who: Identity, settings: Settings | None, own: Journal | None, next_step: int) -> None:
        self._who, self._settings = who, settings
        self._step = next_step - 1
        self._top_step = max(self._step, 0)
        self._finished = False
        self._child = False
        self._params: dict[str, tuple[str, points.Field]] = {}
        self._stamps: dict[tuple[object, int], int] = {}
        self._lock = threading.RLock()
        self._warned_s = -WARN_EVERY_S
        self._shapes: dict[Any, WriterShape] = {}
        self._append: Callable[..., int] = _no_journal
        self._heart: Heart | None = None
        self._ship: Ship | None = None
        self._use(own)

    # -- logging ------------------------------------------------------------------------------------------------

    def log(
        self,
        metrics: Mapping[str, SupportsFloat | Mapping[str, Any]],
        step: int | None = None,
        *,
        timestamp: object = None,
        model: str | None = None,
        dataset: Dataset | None = None,
    ) -> Receipt:
        """Log metrics of one step. The points are in the journal, safe from kill -9, when this returns.

        metrics: names to real numbers (int, float, bool, Decimal, numpy scalar, 0-d array or tensor; NaN and
            infinities are kept). Nested mappings are joined with `/`.
        step: any integer; may repeat or go back. None counts on from the last one, beginning at 0.
        timestamp: seconds since 1970 or an aware datetime, for importing. Default: now.
        model, dataset: instead of the run's own, for these points. A data set is a name or (name, digest).
        Errors: MetricNameError, MetricValueError, StepError, RunFinishedError. Cost: about 1.5 µs for one metric,
        2 µs for ten, 40 µs for 1,000 (benchmarks/log_call.py).
        """
        if step is None:
            step = self._count()
        if timestamp is model is dataset is None and step.__class__ is int:
            try:
                values = metrics.values()
                if PLAIN_NUMBERS.issuperset(map(type, values)):
                    position = self._append(self._shapes[tuple(metrics)], step, values)
                    self._step = step
                    return Receipt(self._delivery, position)
            except _NOT_PLAIN:
                pass
        return self._log_slowly(metrics, step, timestamp, model, dataset)

    def log_params(self, params: Mapping[str, object]) -> Receipt:
        """Store parameters: numbers as numbers, the rest as text. Written at once, and again only on change."""
        self._check_open()
        changed = {}
        for name, value in points.flatten(params).items():
            check_name(name, "parameter name")
            field = points.as_field(value)
            if self._params.get(name) != field:
                self._params[name] = field
                changed[name] = field[1]
        who = (self.experiment, self.run_id)
        return self._append_lines([points.param_line(*who, name, it, self._now_ns()) for name, it in changed.items()])

    def event(self, kind: str, title: str, text: str = "", step: int | None = None, level: str = "info") -> Receipt:
        """Store an event (start, resume, finish, checkpoint, phase, note, …), drawn as an annotation.

        kind: a short word. step: default the last one logged. level: "info", "warning" or "critical".
        """
        self._check_open()
        if level not in ("info", "warning", "critical"):
            raise UsageError(f'level must be "info", "warning" or "critical", not {level!r}')
        return self._append_lines([self._event_line(check_name(kind, "event kind"), title, text, step, level)])

    # -- waiting and ending -------------------------------------------------------------------------------------

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until the server has everything logged so far; False at the deadline (default: exit_timeout_s).

        At once False if nothing ships (offline), True if nothing has to (disabled).
        """
        own = self._journal
        if own is None or self._delivery.done:
            return True
        own.sync()
        return self._delivery.wait(own.position, self._exit_timeout_s() if timeout_s is None else timeout_s)

    def finish(self, status: Status = "finished", timeout_s: float | None = None) -> None:
        """End the run: mark its status, seal the journal, wait up to `timeout_s` seconds for the server.

        What is not delivered by then stays in the journal and is shipped by the next run in the same directory or by
        `metriclog sync`. Calling it again does nothing. Default wait: METRICLOG_EXIT_TIMEOUT_S (5 s).
        """
        if status not in ("finished", "failed", "killed"):
            raise UsageError(f'status must be "finished", "failed" or "killed", not {status!r}')
        with self._lock:
            if self._finished:
                return
            if self._heart:
                self._heart.stop()
            self._say_finished(status)
            self._finished = True
            self._shapes = {}
            if self._journal is not None:
                self._journal.close()
        self._drain(self._exit_timeout_s() if timeout_s is None else timeout_s)

    def stats(self) -> dict[str, Any]:
        """Counts of this process, in points: accepted = delivered + pending + quarantined; dropped had no room."""
        own, ship = self._journal, self._ship
        accepted = own.points if own else 0
        delivered, quarantined = (ship.ack.delivered, ship.ack.quarantined) if ship else (0, 0)
        return {
            "accepted": accepted,
            "delivered": delivered,
            "pending": accepted - delivered - quarantined,
            "quarantined": quarantined,
            "dropped": own.dropped if own else 0,
            "retried": ship.control.retried if ship else 0,
            "last_error": ship.control.last_error if ship else None,
        }

    @property
    def run_id(self) -> str:
        """The id: the `run` tag, and the folder in METRICLOG_DIR."""
        return self._who.run_id

    @property
    def experiment(self) -> str:
        """The experiment's name."""
        return self._who.experiment

    @property
    def url(self) -> str | None:
        """This run in Grafana; None where no server is configured."""
        if self._settings is None or self._who.mode != "online":
            return None
        query = f"var-experiment={quote(self.experiment, safe='')}&var-run={quote(self.run_id, safe='')}"
        since_ms = self._who.started_ns // 1_000_000
        return f"{self._settings.grafana_url}/d/metriclog-curves?{query}&from={since_ms}&to=now"

    @property
    def finished(self) -> bool:
        """Whether `finish()` has been called."""
        return self._finished

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(status_of(error))

    def __repr__(self) -> str:
        return f"<metriclog.Run {self.experiment}/{self.run_id} {self._who.mode}>"

    # -- below: the slow side -----------------------------------------------------------------------------------

    def _count(self) -> int:
        with self._lock:
            self._step += 1
            return self._step

    def _log_slowly(
        self, metrics: Mapping[str, Any], step: object, timestamp: object, model: str | None, dataset: Dataset | None
    ) -> Receipt:
        """`log` for whatever the fast path does not take: first calls, odd types, misuse, a full disk."""
        self._check_open()
        if not isinstance(metrics, Mapping):
            raise MetricValueError(f"log() takes a mapping of names to numbers, not {type(metrics).__name__}")
        number = as_step(step)
        flat = points.flatten(metrics)
        values = [as_number(value, str(name)) for name, value in flat.items()]
        names = tuple(check_name(name) for name in flat)
        tags = self._tags_with(model, dataset)
        key = names if tags is self._who.tags else (names, tags)
        time_ns = None if timestamp is None else self._apart(key, as_time_ns(timestamp))
        self._step = number
        own = self._open_journal()
        if own is None or not names:
            return Receipt(self._delivery, 0)
        try:
            shape = own.shape(key, names, tags)
            return Receipt(self._delivery, own.append_values(shape, number, values, time_ns))
        except JournalError as error:
            return self._lost(own, len(names), error)

    def _tags_with(self, model: str | None, dataset: Dataset | None) -> Tags:
        if model is None and dataset is None:
            return self._who.tags
        given = {"model": None if model is None else check_name(model, "model"), "dataset": dataset_tag(dataset)}
        return tuple(sorted({**dict(self._who.tags), **{key: value for key, value in given.items() if value}}.items()))

    def _apart(self, key: object, time_ns: int) -> int:
        """Equal explicit time stamps of one series, apart by 1 ns each: the second would overwrite the first."""
        with self._lock:
            if len(self._stamps) >= _MAX_STAMPS:
                self._stamps.clear()
            seen = self._stamps[key, time_ns] = self._stamps.get((key, time_ns), -1) + 1
        return time_ns + seen % 1000

    def _append_lines(self, lines: list[str]) -> Receipt:
        own = self._open_journal()
        if own is None or not lines:
            return Receipt(self._delivery, 0)
        try:
            return Receipt(self._delivery, own.append_lines(lines))
        except JournalError as error:
            return self._lost(own, len(lines), error)

    def _lost(self, own: Journal, count: int, error: JournalError) -> Receipt:
        own.lose(count)
        if time.monotonic() - self._warned_s >= WARN_EVERY_S:
            self._warned_s = time.monotonic()
            logger.warning("metriclog: %s; %d points dropped so far. Free some space", error, own.dropped)
        return Receipt(Delivery(verdict=error), 1)

    def _now_ns(self) -> int:
        own = self._open_journal()
        return own.now_ns() if own else time.time_ns()

    def _event_line(self, kind: str, title: str, text: str, step: int | None, level: str) -> str:
        number = max(self._step, 0) if step is None else as_step(step)
        return self._who.event_line(self._now_ns(), kind, {"title": title, "text": text, "level": level}, number)

    def _run_line(self, status: str) -> str:
        self._top_step = max(self._top_step, self._step)
        return self._who.run_line(self._now_ns(), status, self._top_step)

    def _beat(self) -> None:
        with self._lock:
            if not self._finished and self._who.leads:
                self._append_lines([self._run_line("running")])
        if self._journal is not None:
            self._journal.sync()

    def begin(self, params: Mapping[str, object] | None) -> None:
        """Write the run's state, its start event and its parameters; `metriclog.init` calls it once."""
        if self._who.leads:
            kind = "start" if self._who.attempt == 1 else "resume"
            title = "Run started" if kind == "start" else f"Run resumed (attempt {self._who.attempt})"
            self._append_lines([self._run_line("running"), self._event_line(kind, title, "", None, "info")])
            self.log_params(params or {})

    def _say_finished(self, status: Status) -> None:
        if self._who.leads and not self._child and self._journal is not None:
            level = "info" if status == "finished" else "warning"
            event = self._event_line("finish", f"Run {status}", "", None, level)
            self._append_lines([event, self._run_line(status)])

    def _drain(self, timeout_s: float) -> None:
        ship, own = self._ship, self._journal
        if ship is None or own is None:
            return
        self._delivery.wait(own.position, timeout_s)
        ship.stop()
        left = self.stats()["pending"]
        if left > 0:
            why = f" ({ship.control.last_error})" if ship.control.last_error else ""
            logger.warning(
                "metriclog: %d points of run %s wait in %s%s. Ship them with: metriclog sync %s",
                left, self.run_id, own.directory, why, self._who.root,
            )  # fmt: skip

    def _check_open(self) -> None:
        if self._finished:
            raise RunFinishedError(f"run {self.run_id} has been finished; start another with metriclog.init()")

    def _exit_timeout_s(self) -> float:
        return self._settings.exit_timeout_s if self._settings else 0.0

    def _use(self, own: Journal | None) -> None:
        """Log into this journal from now on, and start the threads behind it."""
        self._journal = own
        self._shapes = {}
        if own is None or self._settings is None:
            self._delivery = Delivery(done=True)
            return
        from metriclog.background import Heart, Ship  # pulls in pydantic and tenacity: not for mode "disabled"

        self._shapes, self._append = own.shapes, own.append_values
        if self._who.mode == "online":
            from metriclog.transport import Transport

            self._delivery = Delivery()
            self._ship = Ship(own, self._who.root, Transport(self._settings), self._settings, self._delivery)
        else:
            offline = NotDeliveredError(f"this run is offline; ship it with: metriclog sync {self._who.root}")
            self._delivery = Delivery(verdict=offline)
        self._heart = Heart(self._beat, self._settings.heartbeat_s)

    def _open_journal(self) -> Journal | None:
        """The journal of this process; a forked child opens its own at its first point."""
        if self._journal is None and self._child and self._settings is not None and not self._finished:
            with self._lock:
                if self._journal is None:
                    path, slot = directory.child_directory(self._who.root, self.run_id)
                    meta = self._who.meta(child=True)
                    self._use(create_journal(path, meta, self._settings, slot))
        return self._journal

    def after_fork(self) -> None:
        """In a forked child: let go of the parent's journal and threads, which do not exist here."""
        self._lock = threading.RLock()
        if self._journal is not None:
            self._journal.abandon()
        self._journal = self._heart = self._ship = None
        self._shapes, self._child = {}, True


def create_journal(path: Path, meta: dict[str, Any], settings: Settings, slot: int) -> Journal:
    """The journal of this process in a directory just claimed."""
    return Journal.create(path, meta, segment_bytes=settings.segment_bytes, slot=slot, clock=time.time_ns)


def _no_journal(*_: object) -> int:
    raise KeyError("no journal")


def status_of(error: BaseException | None) -> Status:
    """How a run ended that was left by this exception."""
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "finished"
    return "killed" if isinstance(error, KeyboardInterrupt) else "failed"
