"""Run: what a training script holds. The only file that wires journal, delivery, threads, fork and exit together."""

from __future__ import annotations

import logging
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, SupportsFloat

from metriclog import points
from metriclog.deferred import hold, is_on_device
from metriclog.errors import (
    JournalError,
    MetricValueError,
    RunFinishedError,
    UsageError,
)
from metriclog.identity import Identity, address_in_grafana
from metriclog.keeper import Opened
from metriclog.points import (
    PLAIN_NUMBERS,
    Stamps,
    Tags,
    as_level,
    as_number,
    as_step,
    as_time_ns,
    check_name,
    dataset_tag,
)
from metriclog.receipts import Delivery, Receipt
from metriclog.recorder import Recorder
from metriclog.segments import WriterShape
from metriclog.spellings import Dataset, MlflowSpellings

if TYPE_CHECKING:
    from metriclog.divergence import Finding, Rule
    from metriclog.live import Snapshot
    from metriclog.settings import Settings

logger = logging.getLogger("metriclog")

Status = Literal["finished", "failed", "killed"]
SHOW_S = 0.2  # how long whoever asks for the newest values may have to wait
MOST_TITLES = 1000  # of alerts that are remembered

# What makes the fast path of log() give up and ask the slow one, which explains or copes.
_NOT_PLAIN = (KeyError, TypeError, AttributeError, ValueError, OverflowError, struct.error, JournalError)


class Run(MlflowSpellings):
    """One run: made by `metriclog.init`, ended by `finish()` or by leaving its `with` block.

    `log` costs microseconds, touches no network and raises only for misuse, at the caller's line. Threads may share a
    run. After `os.fork` the child goes on in a journal of its own.
    """

    def __init__(self, who: Identity, settings: Settings | None, opened: Opened | None, next_step: int) -> None:
        self._who, self._settings = who, settings
        self._step = next_step - 1
        self._top_step = max(self._step, 0)
        self._finished = False
        self._status = "running"  # until the end of finish()
        self._alerts: dict[str, tuple[float, Receipt]] = {}
        self._params: dict[str, tuple[str, points.Field]] = {}
        self._stamps = Stamps()
        self._lock = threading.RLock()
        self._shapes: dict[Any, WriterShape] = {}
        self._append: Callable[..., int] = _no_journal
        self._delivery = Delivery(done=True)
        self._recorder = Recorder(who, settings, opened, self._beat, self._opened)

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
        number = self._count() if step is None else step
        if timestamp is model is dataset is None and number.__class__ is int:
            try:
                values = metrics.values()
                if PLAIN_NUMBERS.issuperset(map(type, values)):
                    position = self._append(self._shapes[tuple(metrics)], number, values)
                    if step is not None:  # a counted one is set already, and another thread may have counted on
                        self._top_step = self._step if self._step > self._top_step else self._top_step
                        self._step = number
                    return Receipt(self._delivery, position)
            except _NOT_PLAIN:
                pass
        receipt = self._log_slowly(metrics, number, timestamp, model, dataset)
        if step is not None:
            self._top_step, self._step = max(self._top_step, self._step), as_step(step)
        return receipt

    def log_params(self, params: Mapping[str, object]) -> Receipt:
        """Store parameters: numbers as numbers, the rest as text. Written at once, and again only on change."""
        self._check_open()
        given = {check_name(name, "parameter name"): it for name, it in points.flatten(params).items()}
        fields = {name: points.as_field(value) for name, value in given.items()}
        changed = {name: field for name, field in fields.items() if self._params.get(name) != field}
        who, now_ns = (self.experiment, self.run_id), self._recorder.now_ns
        lines = [points.param_line(*who, name, value, now_ns()) for name, (_, value) in changed.items()]
        receipt = self._recorder.lines(lines)
        if not isinstance(receipt.exception(), JournalError):  # where there was no room, the next call tries again
            self._params |= changed
        return receipt

    def event(self, kind: str, title: str, text: str = "", step: int | None = None, level: str = "info") -> Receipt:
        """Store an event (start, resume, finish, checkpoint, phase, note, …), drawn as an annotation.

        kind: a short word. step: default the last one logged. level: "info", "warning" or "critical".
        """
        self._check_open()
        line = self._event_line(check_name(kind, "event kind"), title, text, step, as_level(level))
        return self._recorder.lines([line])

    # -- watching -----------------------------------------------------------------------------------------------

    def watch(
        self,
        metric: str,
        rule: Rule | Sequence[Rule] | None = None,
        on_fire: Callable[[Finding], object] | None = None,
    ) -> None:
        """Watch a metric, or all that match (`"eval/*loss"`), while it is logged; in the background, at each value.

        rule: one or several of `metriclog.Spike(…)` and its like, instead of the metric's rules so far. None: those it
            has by its name, or those of a loss; a pattern then adds none. `[]`: only values that are not finite.
        on_fire: called with the `Finding` on a background thread when a rule fires, as often as an event is written.
            It must return soon: the next values wait.
        Losses and gradient norms are watched without being asked; `init(watch=False)` watches only what is named here.
        """
        from metriclog.watcher import Wish, as_rules

        self._check_open()
        self._recorder.watch(Wish(check_name(metric), as_rules(metric, rule), on_fire))

    @property
    def should_stop(self) -> bool:
        """Whether a rule found something critical, at any time so far: it costs nothing to ask at each step."""
        return self._recorder.should_stop

    def alert(self, title: str, text: str = "", level: str = "warning", wait_duration_s: float = 0.0) -> Receipt:
        """Tell people something: an event of the kind "alert". A critical one goes to METRICLOG_ALERT_WEBHOOK too.

        level: "info", "warning" or "critical", or W&B's INFO, WARN and ERROR.
        wait_duration_s: the same title is not told again for so long; then the earlier receipt is returned.
        """
        self._check_open()
        told_s, receipt = self._alerts.get(title, (0.0, None))
        now_s = time.monotonic()
        if receipt is None or now_s - told_s >= wait_duration_s:
            receipt = self.event("alert", title, text, level=level)
            if len(self._alerts) >= MOST_TITLES:
                self._alerts.clear()
            self._alerts[title] = now_s, receipt
        return receipt

    # -- waiting and ending -------------------------------------------------------------------------------------

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until the server has everything logged so far; False at the deadline (default: exit_timeout_s).

        At once False if nothing ships (offline), True if nothing has to (disabled).
        """
        return self._recorder.flush(self.exit_timeout_s if timeout_s is None else timeout_s)

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
            self._finished = True
            self._shapes = {}
        wait_s = self.exit_timeout_s if timeout_s is None else timeout_s
        try:
            self._recorder.close(wait_s, lambda: self._say_finished(status))
        finally:
            self._status = status
            self._show(ended=True)

    def stats(self) -> dict[str, Any]:
        """Counts of this process, in points: accepted = delivered + pending + quarantined + dropped.

        Also `retried` (posts), `lag_s` (age of the newest delivered point while something is pending), `pending_bytes`,
        `journal_io` ("mmap", or "buffered" on a network file system) and `last_error`, the server's last words.
        """
        return self._recorder.stats()

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
        """This run in Grafana; None where no server or no Grafana is configured."""
        if self._settings is None or self._who.mode != "online" or self._settings.grafana_url is None:
            return None
        since_ms = self._who.started_ns // 1_000_000
        return address_in_grafana(self._settings.grafana_url, self.experiment, self.run_id, since_ms, "now")

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
        for name, value in flat.items():
            points.check_number(value, check_name(name))
        held = {name: hold(value) for name, value in flat.items() if is_on_device(value)}
        read = {name: as_number(value, name) for name, value in flat.items() if name not in held}
        tags = self._tags_with(model, dataset)
        given_ns = None if timestamp is None else as_time_ns(timestamp)
        with self._lock:
            time_ns = None if given_ns is None else self._stamps.apart(flat, tags, given_ns)
        names = tuple(read)
        key = names if tags is self._who.tags else (names, tags)
        if not held:
            return self._recorder.values(key, names, tags, number, tuple(read.values()), time_ns)
        stamp_ns = self._recorder.now_ns() if time_ns is None else time_ns
        self._recorder.values(key, names, tags, number, tuple(read.values()), stamp_ns)
        return self._recorder.later(held, tags, number, stamp_ns)

    def _tags_with(self, model: str | None, dataset: Dataset | None) -> Tags:
        if model is None and dataset is None:
            return self._who.tags
        given = {"model": None if model is None else check_name(model, "model"), "dataset": dataset_tag(dataset)}
        return tuple(sorted({**dict(self._who.tags), **{key: value for key, value in given.items() if value}}.items()))

    def _event_line(self, kind: str, title: str, text: str, step: int | None, level: str) -> str:
        number = max(self._step, 0) if step is None else as_step(step)
        return self._who.event_line(
            self._recorder.now_ns(), kind, {"title": title, "text": text, "level": level}, number
        )

    def _run_line(self, status: str) -> str:
        self._top_step = max(self._top_step, self._step)
        return self._who.run_line(self._recorder.now_ns(), status, self._top_step)

    def _beat(self) -> None:
        with self._lock:
            if not self._finished:
                lines = [self._run_line("running")] if self._who.leads else []
                self._recorder.lines([*lines, *self._delivery_lines()], patient=False)

    def _delivery_lines(self) -> list[str]:
        """How delivery goes, as a point of `delivery`, where there is delivery."""
        online = self._who.mode == "online"
        return [self._who.delivery_line(self._recorder.now_ns(), self._recorder.stats())] if online else []

    @property
    def exit_timeout_s(self) -> float:
        """How long the end of the process may wait for this run."""
        return self._settings.exit_timeout_s if self._settings else 0.0

    def begin(self, params: Mapping[str, object] | None) -> None:
        """Write the run's state, its start event and its parameters; `metriclog.init` calls it once."""
        self._show()
        if self._who.leads:
            kind = "start" if self._who.attempt == 1 else "resume"
            title = "Run started" if kind == "start" else f"Run resumed (attempt {self._who.attempt})"
            self._recorder.lines([self._run_line("running"), self._event_line(kind, title, "", None, "info")])
            self.log_params(params or {})

    def snapshot(self) -> Snapshot:
        """What the run shows of itself, see `metriclog.live`: counts, and the newest values after a short look."""
        from metriclog import showing

        watcher = self._recorder.watcher
        newest = watcher.newest(time.monotonic() + SHOW_S) if watcher else ({}, None, ())
        steps = max(self._top_step, self._step)
        return showing.snapshot(self._who, self._status, steps, newest, self._recorder.stats())

    def _show(self, *, ended: bool = False) -> None:
        """Let others see the run in this process; once it has ended, what is known now."""
        if self._settings is not None:
            from metriclog import showing

            if ended:
                showing.end(self)
            else:
                showing.begin(self, self._settings)

    def _say_finished(self, status: Status) -> None:
        if self._recorder.journal is None:
            return
        if self._recorder.watcher is not None:
            self._recorder.watcher.last_words(max(self._step, 0))
        lines = self._delivery_lines()
        if self._who.leads and not self._recorder.child:
            level = "info" if status == "finished" else "warning"
            lines += [self._event_line("finish", f"Run {status}", "", None, level), self._run_line(status)]
        self._recorder.lines(lines)

    def _check_open(self) -> None:
        if self._finished:
            raise RunFinishedError(f"run {self.run_id} has been finished; start another with metriclog.init()")

    def _opened(self, recorder: Recorder) -> None:
        """A journal has opened: log into it from now on, without a detour."""
        assert recorder.journal is not None
        self._shapes, self._append = recorder.journal.shapes, recorder.journal.append_values
        self._delivery = recorder.delivery
        if recorder.child:
            finish_with_child(self)
            self._show()

    def after_fork(self) -> None:
        """In a forked child: let go of what belongs to the parent."""
        self._lock = threading.RLock()
        self._shapes = {}
        self._recorder.after_fork()


def finish_with_child(run: Run) -> None:
    """Finish a run when this process ends, if multiprocessing made it: `atexit` may not run there, finalizers do.

    See python/cpython#83856. The exception that ends the child is still being handled when they run.
    """
    process, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
    if process is not None and util is not None and process.parent_process() is not None:
        util.Finalize(None, lambda: run.finish(status_of(sys.exception())), exitpriority=10)


def _no_journal(*_: object) -> int:
    raise KeyError("no journal")


def status_of(error: BaseException | None) -> Status:
    """How a run ended that was left by this exception."""
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "finished"
    return "killed" if isinstance(error, KeyboardInterrupt) else "failed"
