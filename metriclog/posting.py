"""One post to METRICLOG_ALERT_WEBHOOK: the address, what its answers mean, and up to where a journal has been posted.

The address is a secret: only its host is ever shown.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from metriclog import files
from metriclog.directory import read_meta
from metriclog.errors import BadRequestError, ServerError, TransientError
from metriclog.follower import Event
from metriclog.importing import importing
from metriclog.messages import Alert
from metriclog.points import Point, parse_line
from metriclog.sender import Control, Sender
from metriclog.settings import Settings
from metriclog.shipper import shipping_lock
from metriclog.transport import LOOPBACK, retry_after_s

logger = logging.getLogger("metriclog")

CURSOR = "alerts.json"
OLDEST_S = 3600.0  # an alert that is older helps nobody
TIMEOUT_S = 10.0
LOCK = "alerts"
RETRY_LOCK_S = 0.5
_KINDS = {"hooks.slack.com": "slack", "discord.com": "discord", "discordapp.com": "discord"}
_ADVICE = {
    400: "Is METRICLOG_ALERT_WEBHOOK_FORMAT right?",
    401: "Make a new webhook there, and set METRICLOG_ALERT_WEBHOOK",
    403: "Make a new webhook there, and set METRICLOG_ALERT_WEBHOOK",
    404: "Make a new webhook there, and set METRICLOG_ALERT_WEBHOOK",
    410: "Make a new webhook there, and set METRICLOG_ALERT_WEBHOOK",
}


class Webhook:
    """The address, as a target of the sender: passing trouble is `TransientError`, a final no `BadRequestError`."""

    target = LOCK

    def __init__(self, url: str, kind: str) -> None:
        parts = urlsplit(url)
        self.address = f"the webhook at {parts.hostname}"
        self.kind = _KINDS.get(parts.hostname or "", "json") if kind == "auto" else kind
        self._url, self._host = url, parts.hostname

    @classmethod
    def of(cls, settings: Settings) -> Webhook | None:
        """By the settings; None where there is none, or, with a word about it, where it is no address."""
        url = settings.alert_webhook.get_secret_value().strip() if settings.alert_webhook else ""
        if not url:
            return None
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and url.isascii()
        except ValueError:
            good = False
        if not good or re.search(r"[\x00-\x20\x7f]", url):
            logger.warning("metriclog: METRICLOG_ALERT_WEBHOOK is no http:// or https:// address; nothing is posted")
            return None
        return cls(url, settings.alert_webhook_format)

    def write(self, lines: bytes) -> None:
        """Post one body. Without urllib3, which tells the whole address to whoever listens to its log."""
        with importing:
            import http.client
            import urllib.request
            from urllib.error import HTTPError

            "localhost".encode("idna")  # or the first connection imports the codec, perhaps beside a fork

        class NoRedirect(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, *_: Any) -> None:
                """The address is a secret: it goes nowhere else."""

        proxies = [urllib.request.ProxyHandler({})] if self._host in LOOPBACK else []
        headers = {"Content-Type": "application/json", "User-Agent": "metriclog"}
        request = urllib.request.Request(self._url, lines, headers, method="POST")
        try:
            urllib.request.build_opener(NoRedirect, *proxies).open(request, timeout=TIMEOUT_S).close()
        except HTTPError as answer:
            with answer:
                raise self._refusal(answer.code, answer.headers.get("Retry-After")) from None
        except (OSError, http.client.HTTPException) as error:  # whose words may hold the address
            why = getattr(error, "reason", None)
            kind = type(why if isinstance(why, Exception) else error).__name__
            raise TransientError(f"no answer from {self.address}: {kind}") from None

    def _refusal(self, status: int, retry_after: str | None) -> ServerError:
        said = f"{self.address} said {status}"
        if status in (408, 425, 429) or status >= 500:
            return TransientError(said, status=status, retry_after_s=retry_after_s(retry_after))
        return BadRequestError(said, status=status)

    def healthy(self) -> bool:
        """Nobody can tell."""
        return False

    def another(self) -> Webhook:
        """The same: connections are shared."""
        return self

    def close(self) -> None:
        """Nothing is kept open."""


class Poster:
    """Posts what one process' journal holds, one event after the other. Not for several threads."""

    def __init__(self, directory: Path, hook: Webhook, control: Control, settings: Settings) -> None:
        self._directory, self._hook, self._control = directory, hook, control
        self._patience_s = control.give_up_after_s
        self._settings, self._meta = settings, read_meta(directory) or {}
        self._posted = 0
        self.cursor = load_cursor(directory) or Cursor()

    @property
    def position(self) -> int:
        """Up to here all has been posted."""
        return self.cursor.position

    def post(self, event: Event) -> None:
        """Return when it has been posted, or needs not be. Raises `ServerError` when told to stop before."""
        with contextlib.suppress(ValueError):
            point = parse_line(event.line)
            if point.measurement == "events" and point.fields.get("level") == "critical":
                self.post_alert(self.alert(point), by_anybody=False)
                self.move(event.position)

    def alert(self, point: Point) -> Alert:
        """An event of this process."""
        return Alert(point, self._meta, self._settings.grafana_url)

    def move(self, position: int, *, done: bool = False) -> None:
        """Everything up to here has been posted; `done`: and nothing will follow."""
        if position > self.position or done:
            self.cursor = Cursor(max(self.position, position), done, self.cursor.watch)
            try:
                save_cursor(self._directory, self.cursor)
            except OSError as error:
                self._control.warn("what has been posted cannot be noted: %s", error)

    def post_alert(self, alert: Alert, *, by_anybody: bool) -> None:
        """Post it, unless another process of the run has said the same lately, or, `by_anybody`, this one too."""
        left_s = alert.point.time_ns / 1e9 + OLDEST_S - time.time()
        title, run = alert.point.fields.get("title"), alert.point.tags.get("run")
        if left_s <= 0:
            self._control.warn("alerts older than an hour are not posted: %s (run %s)", title, run)
            return
        if self._posted >= self._settings.alert_max:
            self._control.warn("METRICLOG_ALERT_MAX=%d alerts have been posted, no more: %s", self._posted, title)
            return
        self._posted += 1
        try:
            with self._alone() as said:
                if not self._is_said(said, alert.key, by_anybody):
                    self._send(alert, left_s)
                    said[alert.key] = [time.time(), self._directory.name]
        except OSError:  # the directory cannot be written, or is there no more
            self._send(alert, left_s)

    def _send(self, alert: Alert, left_s: float) -> None:
        """Raises when told to stop, or out of patience; what is refused for good, or too late, is given up."""
        ends_s = time.time() + left_s
        self._control.give_up_after_s = min(left_s, self._patience_s or left_s)
        try:
            Sender(self._hook, self._control, "alerts").send(alert.body(self._hook.kind))
        except BadRequestError as error:
            advice = _ADVICE.get(error.status or 0, "It is given up")
            self._control.warn("an alert is not posted, %s. %s", error, advice)
        except ServerError:
            if time.time() < ends_s:
                raise
            self._control.warn("an alert is an hour old and could not be posted: %s", alert.point.fields.get("title"))
        finally:
            self._control.give_up_after_s = self._patience_s

    @contextlib.contextmanager
    def _alone(self) -> Iterator[dict[str, list[Any]]]:
        """What was posted of this run lately, by all its processes here: of 512 ranks with one trouble, one posts."""
        path = self._directory.parent / f".{CURSOR}"
        while not self._control.stop.is_set():
            with shipping_lock(self._directory.parent, LOCK) as mine:
                if mine:
                    said = _load(path)
                    yield said
                    young_s = time.time() - self._settings.alert_cooldown_s
                    kept = {key: it for key, it in said.items() if it[0] >= young_s}
                    _save(path, kept)
                    return
            self._control.sleep(RETRY_LOCK_S)
        raise TransientError("told to stop")

    def _is_said(self, said: dict[str, list[Any]], key: str, by_anybody: bool) -> bool:
        """By another process of the run; what this one says again it means again."""
        when_s, whose = said.get(key, (-math.inf, ""))
        lately = time.time() - when_s < self._settings.alert_cooldown_s
        return lately and (by_anybody or whose != self._directory.name)


def is_critical(line: str) -> bool:
    """Whether a line may be a critical event."""
    return line.startswith("events,") and 'level="critical"' in line


@dataclass(frozen=True, slots=True)
class Cursor:
    """Up to where the events of a process have been posted; `done`: nothing will follow. `watch`: it wants rules."""

    position: int = 0
    done: bool = False
    watch: bool = True


def load_cursor(directory: Path) -> Cursor | None:
    """None if nothing is to be posted. What is no cursor is the start."""
    try:
        loaded = json.loads((directory / CURSOR).read_bytes())
        cursor = Cursor(int(loaded["position"]), bool(loaded["done"]), bool(loaded["watch"]))
        return None if cursor.done else cursor
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return Cursor()


def save_cursor(directory: Path, cursor: Cursor) -> None:
    """Temporary file, fsync, rename. `OSError` passes through."""
    content = {"position": cursor.position, "done": cursor.done, "watch": cursor.watch}
    files.replace(directory / CURSOR, json.dumps(content).encode())


def _load(path: Path) -> dict[str, list[Any]]:
    try:
        loaded = json.loads(path.read_bytes())
        return {str(key): [float(it[0]), str(it[1])] for key, it in loaded.items()}
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return {}


def _save(path: Path, said: dict[str, list[Any]]) -> None:
    with contextlib.suppress(OSError):
        files.replace(path, json.dumps(said).encode())
