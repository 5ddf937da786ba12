"""What Prometheus sees of this process. The only file that knows prometheus_client.

`expose(settings)` when a run begins, `linger()` and `shut_down()` at the end of the process, `after_fork()` in a
forked child. An application that has a server of its own registers `collector()` with its registry instead:

    registry.register(metriclog.exposition.collector())
"""

from __future__ import annotations

import base64
import errno
import logging
import math
import os
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPSHandler, Request, build_opener

from prometheus_client import delete_from_gateway, push_to_gateway
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from metriclog import announcing, live
from metriclog.errors import ServerError
from metriclog.live import Snapshot
from metriclog.pushing import Key, Pusher
from metriclog.samples import INFO, SHOWN, WHOSE, Series, Shown, samples
from metriclog.scrapes import Page, Scrapes, ScrapeServer
from metriclog.seldom import WARN_EVERY_S
from metriclog.settings import Settings

logger = logging.getLogger("metriclog")

PUSH_TIMEOUT_S = 5.0
DELETE_S = 2.0  # what the end of the process may wait for a Pushgateway
JOB = "metriclog"


def _family(shown: Shown) -> InfoMetricFamily | CounterMetricFamily | GaugeMetricFamily:
    """The family without samples."""
    labels = WHOSE + shown.labels
    if shown.kind == "info":
        return InfoMetricFamily(shown.name, shown.help, labels=labels)
    metered = CounterMetricFamily if shown.kind == "counter" else GaugeMetricFamily
    return metered(shown.name, shown.help, labels=labels, unit=shown.unit)


class Collector:
    """Collects the runs of this process at each scrape; nothing happens in between.

    At most `max_metrics` metrics of a run are shown, the first that appeared: three time series each in Prometheus,
    besides the fixed few of a run. How many are left out is in `metriclog_metrics_hidden`.
    """

    def __init__(self, max_metrics: int, shown: Callable[[], Iterable[Snapshot]]) -> None:
        self._most, self._shown = max_metrics, shown

    def describe(self) -> Iterator[Metric]:
        """The families without samples: a registry asks whether they clash with others."""
        return map(_family, SHOWN)

    def collect(self) -> Iterator[Metric]:
        """The families with what is to be seen now."""
        families = {shown.name: _family(shown) for shown in SHOWN}
        rows: dict[Series, float] = {}
        for snapshot in self._shown():
            rows |= self._read(snapshot)
        for (name, labels), value in rows.items():
            add: Callable[..., None] = families[name].add_metric
            add(labels, {} if name == INFO else value)
        yield from families.values()

    def _read(self, snapshot: Snapshot) -> dict[Series, float]:
        """All samples of a run or, if it cannot be read, none: the other runs are shown all the same."""
        try:
            found = samples(snapshot, self._most)
            return {(name, tuple(map(str, labels))): float(value) for (name, labels), value in found}
        except Exception as error:  # noqa: BLE001 - one broken run must not hide the others
            _warn(f"run {snapshot.run} cannot be shown to Prometheus: {error!r}")
            return {}


def collector(max_metrics: int | None = None) -> Collector:
    """The runs of this process for a registry of prometheus_client, as long as the process lives.

    max_metrics: most metrics of a run that are shown; default METRICLOG_PROMETHEUS_MAX_METRICS (1,000).
    """
    most = Settings.load().prometheus_max_metrics if max_metrics is None else max_metrics
    return Collector(most, _newest)


def _newest() -> list[Snapshot]:
    """The state of each run now. Of one that was resumed in this process the last attempt counts."""
    found: dict[Key, Snapshot] = {}
    for source in live.sources():
        try:
            snapshot = source.snapshot()
        except Exception as error:  # noqa: BLE001 - one broken run must not hide the others
            _warn(f"a run cannot be shown to Prometheus: {error!r}")
            continue
        key = snapshot.experiment, snapshot.run, snapshot.rank
        if key not in found or found[key].attempt <= snapshot.attempt:
            found[key] = snapshot
    return list(found.values())


def _page(accept: str, most: int) -> Page:
    """An answer to a scrape: OpenMetrics for whoever accepts it, else Prometheus' older text."""
    snapshots = _newest()
    encode, content_type = choose_encoder(accept)
    return Page(content_type, encode(Collector(most, lambda: snapshots)), _ended(snapshots))


def _ended(snapshots: Iterable[Snapshot]) -> frozenset[tuple[Key, int]]:
    return frozenset(((it.experiment, it.run, it.rank), it.attempt) for it in snapshots if it.status != "running")


class Exposure:
    """A port of this process that Prometheus can scrape."""

    def __init__(self, server: ScrapeServer, host: str) -> None:
        self._server, self._announced = server, dict[Path, announcing.Announcement | None]()
        self.port, self.closed = server.port, False
        everywhere = host in ("0.0.0.0", "::", "")
        name = os.uname().nodename if everywhere else f"[{host}]" if ":" in host else host
        self.address = f"{name}:{self.port}"

    @property
    def scrapes(self) -> int:
        """How often this process has been scraped, at whatever port."""
        return self._server.scrapes.count

    def announce(self, folder: Path) -> None:
        """Say so in a folder that Prometheus watches; tried once."""
        if folder not in self._announced:
            self._announced[folder] = announcing.announce(folder, self.address)

    def close(self) -> None:
        """Listen no more, and take the announcements away."""
        self.closed = True
        while self._announced:
            _, announcement = self._announced.popitem()
            if announcement:
                announcement.close()
        self._server.close()


class _Pushgateway:
    """Each run is a group {job="metriclog", experiment, run, rank}."""

    def __init__(self, settings: Settings) -> None:
        self._url, self._most = settings.pushgateway_url or "", settings.prometheus_max_metrics
        context = None
        if self._url.startswith("https:"):
            context = ssl.create_default_context(cafile=settings.ca_file)
            context.check_hostname &= settings.verify_tls
            context.verify_mode = ssl.CERT_REQUIRED if settings.verify_tls else ssl.CERT_NONE
        self._open = build_opener(HTTPSHandler(context=context)).open

    def put(self, snapshot: Snapshot) -> None:
        """Replace the group of this run by its state."""
        # A group has one rank: of the run, not of whom an alert is about.
        still = replace(snapshot, firing=tuple(replace(it, rank=snapshot.rank) for it in snapshot.firing))
        shown = Collector(self._most, lambda: [still])
        self._ask(push_to_gateway, (still.experiment, still.run, still.rank), registry=shown)

    def delete(self, key: Key) -> None:
        """Remove the group of a run."""
        self._ask(delete_from_gateway, key)

    def _ask(self, call: Callable[..., None], key: Key, **more: Any) -> None:
        # In base64, because names may hold spaces, which prometheus_client would turn into plus signs.
        group = {f"{name}@base64": _base64(value) for name, value in zip(WHOSE, key, strict=True) if value}
        try:
            call(self._url, JOB, grouping_key=group, timeout=PUSH_TIMEOUT_S, handler=self._handler, **more)
        except HTTPError as error:
            words = error.read(300).decode("utf-8", "replace").strip()
            raise ServerError(f"the Pushgateway {self._url} says {error.code}: {words}", status=error.code) from error
        except (OSError, HTTPException) as error:
            raise ServerError(f"the Pushgateway {self._url} does not answer: {error}") from error

    def _handler(
        self, url: str, method: str, timeout: float, headers: list[tuple[str, str]], data: bytes
    ) -> Callable[[], None]:
        request = Request(url, data=data or None, headers=dict(headers), method=method)
        return lambda: self._open(request, timeout=timeout).close()


def _base64(value: str) -> str:
    return base64.urlsafe_b64encode(value.encode()).decode()


@dataclass
class _Exposed:
    """What this process exposes."""

    at: dict[tuple[str, int], Exposure] = field(default_factory=dict)
    pushers: dict[str, Pusher] = field(default_factory=dict)
    scrapes: Scrapes = field(default_factory=Scrapes)
    linger_s: float = 0.0
    forked: bool = False  # from a process that exposes something: fixed ports and groups are its
    hooked: bool = False


_lock = threading.RLock()
_exposed = _Exposed()
_warned: dict[str, float] = {}  # when, by the words or, for those that may come again, by nothing


def expose(settings: Settings) -> Exposure | None:
    """Let Prometheus see the runs of this process, as the settings say. Never raises; the same again does nothing.

    None if no port is wanted or to be had. To be called when a run begins, after `live.add`.
    """
    try:
        with _lock:
            _exposed.linger_s = max(_exposed.linger_s, settings.prometheus_linger_s)
            _end_with_child()
            if settings.pushgateway_url:
                _push(settings, settings.pushgateway_url)
            return None if settings.prometheus_port is None else _serve(settings, settings.prometheus_port)
    except Exception as error:  # noqa: BLE001 - training goes on, whatever is wrong here
        _warn(f"nothing is shown to Prometheus: {error!r}")
        return None


def _serve(settings: Settings, port: int) -> Exposure | None:
    host = settings.prometheus_host
    found = _exposed.at.get((host, port))
    if found is None or found.closed:
        if port and _exposed.forked:
            return None
        try:
            page = partial(_page, most=settings.prometheus_max_metrics)
            found = Exposure(ScrapeServer(host, port, page, _exposed.scrapes), host)
        except OSError as error:
            _say_refused(host, port, error)
            return None
        _exposed.at[host, port] = found
    if settings.prometheus_sd_dir is not None:
        found.announce(settings.prometheus_sd_dir.absolute())
    return found


def _say_refused(host: str, port: int, error: OSError) -> None:
    if error.errno == errno.EADDRINUSE:
        advice = "Set METRICLOG_PROMETHEUS_PORT=0 (any free port) and METRICLOG_PROMETHEUS_SD_DIR (for file_sd_configs)"
        _warn(
            f"port {port} of {host} is taken, Prometheus cannot scrape this process. {advice}; training goes on",
            once=True,
        )
    else:
        _warn(f"Prometheus cannot scrape this process at {host}:{port}: {error}; training goes on", once=True)


def _push(settings: Settings, url: str) -> None:
    if url in _exposed.pushers:
        _exposed.pushers[url].hurry()
    elif not _exposed.forked:
        _exposed.pushers[url] = Pusher(_Pushgateway(settings), _newest)


def ended() -> None:
    """A run has ended, and its snapshot says so: push that now. Returns at once."""
    for pusher in list(_exposed.pushers.values()):
        pusher.hurry()


def linger(deadline_s: float | None = None) -> None:
    """Wait until Prometheus has seen the end of all ended runs, at most the prometheus_linger_s of what is exposed.

    deadline_s: of `time.monotonic`, if that is sooner. What is pushed can be seen until then, scraped or not.
    Ctrl-C ends the wait and passes through.
    """
    until_s = min(time.monotonic() + _exposed.linger_s, math.inf if deadline_s is None else deadline_s)
    ended = _ended(_newest())
    if not ended or until_s <= time.monotonic():
        return
    pushed = [pusher.settle(until_s) for pusher in list(_exposed.pushers.values())]
    if any(pushed) or any(not exposure.closed for exposure in list(_exposed.at.values())):
        _exposed.scrapes.wait(ended, until_s)


def shut_down() -> None:
    """Close what is exposed, take announcements and what was pushed away. Never raises; once is enough.

    Takes no time, but up to 2 s where a Pushgateway does not answer.
    """
    global _exposed
    with _lock:
        over, _exposed = _exposed, _Exposed(forked=_exposed.forked)
    for exposure in over.at.values():
        exposure.close()
    deadline_s = time.monotonic() + DELETE_S
    for url, pusher in over.pushers.items():
        if not pusher.close(max(0.0, deadline_s - time.monotonic())):
            _warn(f"the Pushgateway {url} does not answer: what it shows of this process stays there")


def after_fork() -> None:
    """In a forked child: nothing is exposed here, and what the parent exposes is the parent's.

    It happens by itself. A child that logs gets a free port of its own, if that is what the settings ask for.
    """
    global _lock, _exposed
    forked = _exposed.forked or bool(_exposed.at or _exposed.pushers)
    _lock, _exposed = threading.RLock(), _Exposed(forked=forked)


def _end_with_child() -> None:
    """End with this process, if multiprocessing made it: `atexit` may not run there, finalizers do."""
    process, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
    if not _exposed.hooked and process is not None and util is not None and process.parent_process() is not None:
        util.Finalize(None, _linger_and_shut_down, exitpriority=5)  # after the runs have finished
    _exposed.hooked = True


def _linger_and_shut_down() -> None:
    try:
        linger()
    finally:
        shut_down()


def _warn(words: str, *, once: bool = False) -> None:
    """Said once, or else at most once a minute."""
    key, now_s = words if once else "", time.monotonic()
    if now_s - _warned.get(key, -math.inf) >= (math.inf if once else WARN_EVERY_S):
        _warned[key] = now_s
        logger.warning("metriclog: %s", words)


os.register_at_fork(after_in_child=after_fork)
