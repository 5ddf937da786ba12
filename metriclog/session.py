"""init(), the active run, and what happens to runs when the process forks or ends."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

from metriclog import directory
from metriclog.directory import Resume
from metriclog.errors import NoActiveRunError, RunExistsError, SettingsError, UsageError
from metriclog.identity import Identity
from metriclog.keeper import open_journal
from metriclog.points import Tags, check_name, check_tags, dataset_tag, flatten
from metriclog.receipts import Receipt
from metriclog.recorder import new_delivery
from metriclog.run import Run, Status, finish_with_child, status_of
from metriclog.spellings import Dataset

if TYPE_CHECKING:
    from metriclog.settings import Mode, Settings

_runs: list[Run] = []
_hooked = False


def init(
    experiment: str,
    *,
    name: str | None = None,
    run_id: str | None = None,
    resume: Resume = "never",
    params: Mapping[str, object] | None = None,
    tags: Mapping[str, object] | None = None,
    model: str | None = None,
    dataset: Dataset | None = None,
    rank: int | None = None,
    mode: Mode | None = None,
    watch: bool | None = None,
    settings: Settings | None = None,
) -> Run:
    """Start (or resume) a run and make it the active one. Never waits for the network.

    experiment: what the run belongs to. name: a readable start for the generated id.
    run_id: your own id, of `[A-Za-z0-9._-]`; with `resume` "allow" or "must" an earlier run goes on: its steps are
        counted on, its clock of elapsed time too. "must" looks into METRICLOG_DIR only.
    params: parameters, nested mappings joined with `/`. tags: extra tags on every metric of the run.
    model, dataset: tags of every metric; a data set is a name or a (name, digest) pair.
    rank: this process' number where several log into one run (give all of them the same `run_id`).
    mode: "online", "offline" (journal only) or "disabled" (nothing is kept). Default: METRICLOG_MODE, else online
        where METRICLOG_URL is set, else offline.
    watch: False watches only what `run.watch()` names. Default: METRICLOG_WATCH, which is to watch losses and gradient
        norms for divergence, and everything for NaN.
    settings: a `Settings` instead of the METRICLOG_* environment.
    Errors: SettingsError, RunExistsError, RunNotFoundError, RunActiveError, MetricNameError, JournalError.
    Cost: about 0.2 s the first time in a process (imports), then milliseconds.
    """
    check_name(experiment, "experiment")
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 0):
        raise UsageError(f"rank must be an int from 0, not {rank!r}")
    base = check_tags(tags) | _own_tags(experiment, model, dataset, rank)
    for param in flatten(params or {}):
        check_name(param, "parameter name")
    chosen = run_id is not None
    identifier = directory.check_run_id(run_id) if run_id is not None else ""
    if mode == "disabled" or (mode is None and settings is None and os.environ.get("METRICLOG_MODE") == "disabled"):
        return _disabled(experiment, identifier or directory.make_run_id(name, experiment, model, params), rank, base)
    settings = _settings(settings, mode, watch)
    if settings.mode == "disabled":
        return _disabled(experiment, identifier or directory.make_run_id(name, experiment, model, params), rank, base)
    while True:
        identifier = identifier or directory.make_run_id(name, experiment, model, params)
        try:
            run = _claim(settings, experiment, identifier, rank, resume, base)
            break
        except RunExistsError:
            if chosen:
                raise
            identifier = ""  # a generated id that is taken: draw another
    return _activate(run, params)


def _own_tags(experiment: str, model: str | None, dataset: Dataset | None, rank: int | None) -> dict[str, str]:
    base = {"experiment": experiment}
    base |= {"model": check_name(model, "model")} if model is not None else {}
    base |= {"dataset": data} if (data := dataset_tag(dataset)) else {}
    return base | ({"rank": str(rank)} if rank is not None else {})


def log(metrics: Mapping[str, SupportsFloat | Mapping[str, Any]], step: int | None = None, **options: Any) -> Receipt:
    """`Run.log` on the active run. Raises `NoActiveRunError` without one."""
    return active_run().log(metrics, step, **options)


def log_metric(key: str, value: SupportsFloat, step: int | None = None, timestamp: object = None) -> Receipt:
    """`Run.log_metric` on the active run. Raises `NoActiveRunError` without one."""
    return active_run().log_metric(key, value, step, timestamp)


def log_metrics(metrics: Mapping[str, SupportsFloat], step: int | None = None, timestamp: object = None) -> Receipt:
    """`Run.log_metrics` on the active run. Raises `NoActiveRunError` without one."""
    return active_run().log_metrics(metrics, step, timestamp)


def finish(status: Status = "finished", timeout_s: float | None = None) -> None:
    """`Run.finish` on the active run. Raises `NoActiveRunError` without one."""
    active_run().finish(status, timeout_s)


def active_run() -> Run:
    """The run that was started last and is not finished. Raises `NoActiveRunError` without one."""
    for run in reversed(_runs):
        if not run.finished:
            return run
    raise NoActiveRunError('there is no active run; start one with metriclog.init(experiment="…")')


def alert(title: str, text: str = "", level: str = "warning", wait_duration_s: float = 0.0) -> Receipt:
    """`Run.alert` on the active run. Raises `NoActiveRunError` without one."""
    return active_run().alert(title, text, level, wait_duration_s)


def _settings(settings: Settings | None, mode: Mode | None, watch: bool | None) -> Settings:
    from metriclog.settings import Settings  # pydantic: not at import time

    settings = settings or Settings.load()
    if watch is not None:
        settings = settings.model_copy(update={"watch": watch})
    if mode is not None:
        if mode not in ("online", "offline", "disabled"):
            raise SettingsError(f'mode must be "online", "offline" or "disabled", not {mode!r}')
        settings = settings.model_copy(update={"mode": mode})
    if settings.effective_mode() == "online":
        settings.check_online()
    return settings


def _disabled(experiment: str, run_id: str, rank: int | None, base: dict[str, str]) -> Run:
    tags = _tag_set(base, run_id)
    who = Identity(experiment, run_id, rank, tags, "disabled", Path(), 1, time.time_ns())
    return _activate(Run(who, None, None, 0), None)


def _claim(
    settings: Settings, experiment: str, run_id: str, rank: int | None, resume: Resume, base: dict[str, str]
) -> Run:
    root = settings.dir.absolute()
    with directory.claim(root, run_id, experiment, rank, resume) as claimed:
        who = Identity(
            experiment=experiment,
            run_id=run_id,
            rank=rank,
            tags=_tag_set(base, run_id),
            mode=settings.effective_mode(),
            root=root,
            attempt=claimed.attempt,
            started_ns=claimed.started_ns or time.time_ns(),
        )
        meta = who.meta(child=False)
        opened = open_journal(claimed.path, meta, settings, claimed.slot, new_delivery(who))
        return Run(who, settings, opened, claimed.next_step)


def _tag_set(base: dict[str, str], run_id: str) -> Tags:
    return tuple(sorted({**base, "run": run_id}.items()))


def _activate(run: Run, params: Mapping[str, object] | None) -> Run:
    global _hooked
    if not _hooked:
        _hooked = True
        atexit.register(_at_exit)
        os.register_at_fork(after_in_child=_after_fork)
    _runs[:] = [other for other in _runs if not other.finished]
    _runs.append(run)
    finish_with_child(run)
    run.begin(params)
    return run


def _at_exit() -> None:
    """Finish what is not finished. All runs ship at the same time, so they share one exit timeout, the longest.

    Ctrl-C, or a handler that exits, ends the waiting and nothing else: what it raises Python could only print.
    """
    open_runs = [run for run in _runs if not run.finished]
    crashed = None if hasattr(sys, "ps1") else sys.exception() or getattr(sys, "last_value", None)
    deadline_s = time.monotonic() + max((run.exit_timeout_s for run in open_runs), default=0.0)
    for run in open_runs:
        try:
            run.finish(status_of(crashed), timeout_s=max(0.0, deadline_s - time.monotonic()))
        except (KeyboardInterrupt, SystemExit):
            deadline_s = 0.0
    _stop_exposing()
    if open_runs and isinstance(crashed, KeyboardInterrupt):
        _end_by_sigint()


def _stop_exposing() -> None:
    """Let Prometheus see the end of the runs, if somebody asked for that, and listen no more."""
    exposition = sys.modules.get("metriclog.exposition")
    if exposition is not None:
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            exposition.linger()
        exposition.shut_down()


def _end_by_sigint() -> None:
    """Python ends by SIGINT, as shells want it, if KeyboardInterrupt left the last code that was compiled from text.

    That would no longer be the script: the shipper may have imported something, and a namedtuple is made of text.
    """
    with contextlib.suppress(KeyboardInterrupt):
        exec("raise KeyboardInterrupt")


def _after_fork() -> None:
    for run in _runs:
        run.after_fork()
