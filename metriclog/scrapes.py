"""The small HTTP server that Prometheus scrapes: GET /metrics on a few daemon threads, and who was seen by it."""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401 - addresses need it; imported by a thread it could meet a fork
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

logger = logging.getLogger("metriclog")

THREADS = 4  # started at once: at the end of the process Python starts no more, and a last scrape must be answered
CLIENT_S = 10.0  # how long a client may keep one of them waiting
BACKLOG = 16
OUT_OF_FILES_S = 1.0

# A forked child must not hold its parent's sockets open: nobody else could tell that the parent is gone.
_sockets: set[socket.socket] = set()
_noting = threading.RLock()


@dataclass(frozen=True, slots=True)
class Page:
    """An answer to a scrape, and which ended runs it shows in their final state."""

    content_type: str
    body: bytes
    ended: frozenset[Hashable] = frozenset()


class Scrapes:
    """Counts scrapes that were answered in full, and knows whose end they have shown. Threads may share it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._seen: set[Hashable] = set()
        self.count = 0

    def note(self, page: Page) -> None:
        """Somebody has read this page."""
        with self._changed:
            self.count += 1
            self._seen |= page.ended
            self._changed.notify_all()

    def wait(self, ended: frozenset[Hashable], deadline_s: float) -> bool:
        """Wait until a scrape has shown the end of all these; False at the deadline (of `time.monotonic`)."""
        with self._changed:
            return self._changed.wait_for(lambda: ended <= self._seen, max(0.0, deadline_s - time.monotonic()))


class ScrapeServer:
    """Listens from now on. Raises `OSError` if it cannot: the port is taken, the address is none of this machine.

    Each scrape is rendered when it comes, by `render`, which gets the header Accept.
    """

    def __init__(self, host: str, port: int, render: Callable[[str], Page], scrapes: Scrapes) -> None:
        self.render, self.scrapes = render, scrapes
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self._stop = threading.Event()
        with _noting:
            self._socket = socket.create_server(address[:2], family=family, backlog=BACKLOG)
            _sockets.add(self._socket)
        self._socket.setblocking(False)
        self._fd = self._socket.fileno()
        self.port: int = self._socket.getsockname()[1]
        self._start_threads()

    def _start_threads(self) -> None:
        try:
            for _ in range(THREADS):
                threading.Thread(target=self._loop, name="metriclog-scrape", daemon=True).start()
        except RuntimeError as error:  # the interpreter shuts down, or there is no thread to be had
            self.close()
            raise OSError(str(error)) from error

    def close(self) -> None:
        """Listen no more; returns at once. In a forked child, where that has been done, nothing."""
        self._stop.set()
        with _noting:
            if self._socket in _sockets:
                _sockets.remove(self._socket)
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)  # wakes the threads
                self._socket.close()

    def _loop(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while not self._stop.is_set():
            poll.poll()
            connection = None if self._stop.is_set() else self._accept()
            if connection is not None:
                self._answer(connection)

    def _accept(self) -> socket.socket | None:
        try:
            with _noting:
                connection, _ = self._socket.accept()
                _sockets.add(connection)
        except BlockingIOError:  # another thread has taken it
            return None
        except OSError:
            self._stop.wait(OUT_OF_FILES_S)
            return None
        return connection

    def _answer(self, connection: socket.socket) -> None:
        try:
            _Handler(connection, self)
        except OSError:
            pass  # the client went away
        except Exception:
            logger.warning("metriclog: a scrape could not be answered", exc_info=True)
        finally:
            with _noting:
                _sockets.discard(connection)
                connection.close()


class _Handler(BaseHTTPRequestHandler):
    """One request of one connection."""

    timeout = CLIENT_S
    server_version, sys_version = "metriclog", ""

    def __init__(self, connection: socket.socket, asked: ScrapeServer) -> None:
        self._asked = asked
        super().__init__(connection, ("", 0), None)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        if urlsplit(self.path).path != "/metrics":
            self._send(404, Page("text/plain; charset=utf-8", b"The metrics are at /metrics\n"))
            return
        page = self._asked.render(self.headers.get("Accept", ""))
        self._send(200, page)
        self._asked.scrapes.note(page)

    def _send(self, status: int, page: Page) -> None:
        self.send_response(status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.end_headers()
        self.wfile.write(page.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Prometheus comes every few seconds: nothing to tell."""


def _after_fork() -> None:
    while _sockets:
        os.close(_sockets.pop().detach())  # without a word on the line, which is the parent's
    _noting.release()


os.register_at_fork(before=_noting.acquire, after_in_parent=_noting.release, after_in_child=_after_fork)
