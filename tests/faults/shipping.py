"""A journal made offline, and a shipper in the test's own thread on a clock that stands still: hours pass at once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import metriclog
from metriclog import directory, quarantine, standing
from metriclog.acks import load_ack
from metriclog.background import ship_directory
from metriclog.errors import ServerError
from metriclog.journal import Journal
from metriclog.replay import owner_is_alive
from metriclog.settings import Settings
from metriclog.transport import Transport
from tests.faults.loads import EXPERIMENT, address, log_step
from tests.faults.oracle import Accepted, check_conservation
from tests.servers.api import Influx
from tests.test_sender import VirtualControl


def settings_of(influx: Influx, folder: Path, url: str | None = None, **more: object) -> Settings:
    """Settings that ship to this bucket, through a proxy if `url` is given; with small batches and short waits."""
    small = {"batch_max_points": 500, "connections": 1, "flush_interval_s": 0.02, "read_timeout_s": 0.3}
    there = {**address(influx, folder), **({"url": url} if url else {})}
    return Settings(**{**there, **small, **more})  # type: ignore[arg-type]


def log_offline(settings: Settings, steps: Iterable[int] = range(1000), run_id: str = "r") -> list[Accepted]:
    """A run that has ended without having shipped anything; its calls."""
    with metriclog.init(EXPERIMENT, run_id=run_id, mode="offline", settings=settings) as run:
        return [log_step(run, step) for step in steps]


def log_raw(settings: Settings, steps: int, raw: Mapping[int, str], run_id: str = "raw") -> list[Accepted]:
    """A journal of `steps` metric points, with a line as it is before each step that `raw` names; its calls."""
    settings.dir.mkdir(exist_ok=True)
    with directory.claim(settings.dir, run_id, EXPERIMENT, None, "never") as place:
        meta = {"experiment": EXPERIMENT, "run": run_id, "rank": None, "mode": "offline", "started_ns": time.time_ns()}
        journal = Journal.create(place.path, meta, segment_bytes=1 << 20, slot=place.slot, clock=time.time_ns)
    tags, accepted = (("experiment", EXPERIMENT), ("run", run_id)), []
    for step in range(steps):
        if step in raw:
            journal.append_lines([raw[step]])
        before_ns = time.time_ns()
        journal.append_values(journal.shape("loss", ("loss",), tags), step, (step / 3,))
        accepted.append(Accepted(run_id, step, {"loss": step / 3}, before_ns, time.time_ns()))
    journal.close()
    return accepted


def check_all_delivered(accepted: list[Accepted], settings: Settings, influx: Influx) -> None:
    """Nothing is pending or in quarantine, and the server holds exactly what the journal holds."""
    tally = check_conservation(accepted, settings, influx)
    assert (tally.pending, tally.quarantined, tally.server) == (0, 0, tally.journal)
    assert not list(unfinished(settings)), "the roll-ups of its end are not there"


def unfinished(settings: Settings) -> Iterator[Path]:
    """The directories of dead processes whose last roll-ups are still to be sent."""
    target = Transport(settings).target
    for path in directory.process_directories(settings.dir):
        if not owner_is_alive(path) and not standing.is_finished(path, target, load_ack(path, target).position):
            yield path


def kept_reasons(settings: Settings) -> dict[str, str]:
    """Line → reason of everything in quarantine."""
    target = Transport(settings).target
    folders = directory.process_directories(settings.dir)
    return {one.line: one.reason for folder in folders for one in quarantine.load(folder, target)}


def ship(
    settings: Settings, control: VirtualControl | None = None, after: Callable[[], None] = lambda: None
) -> VirtualControl:
    """Ship every journal as `metriclog sync` does, on a virtual clock; `after` is called after each batch."""
    control = control or VirtualControl()
    target = Transport(settings)

    def look() -> bool:
        after()
        return False

    with contextlib.closing(target):
        for path in directory.process_directories(settings.dir):
            ship_directory(path, target, control, settings, pause=look)
    return control


def try_to_ship(settings: Settings, patience_s: float = 3600.0) -> tuple[ServerError, VirtualControl]:
    """Ship for an hour of virtual time without success; the last trouble."""
    control = VirtualControl(give_up_after_s=patience_s)
    try:
        ship(settings, control)
    except ServerError as error:
        return error, control
    raise AssertionError("everything was shipped")
