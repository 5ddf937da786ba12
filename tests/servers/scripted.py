"""An HTTP server on loopback that answers every request alike, as a test says: refusals, portals, broken answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


class ScriptedServer(ThreadingHTTPServer):
    """Answers every request alike and keeps what it was asked: (method, path, headers, body)."""

    daemon_threads = True

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone away is part of the play."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: ScriptedServer

    def do_POST(self) -> None:
        """Keep the request, answer as told."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.command, self.path, dict(self.headers), body))
        self.server.answer(self)

    do_GET = do_PUT = do_DELETE = do_POST

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


def says(status: int, body: bytes = b"", **headers: str) -> Answer:
    """Answer with this status, body and headers (`retry_after="3"`)."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    """Close the connection without a word."""
    handler.close_connection = True


def breaks_off(handler: BaseHTTPRequestHandler) -> None:
    """Close the connection within the first line."""
    handler.wfile.write(b"HTTP/1.1 20")
    handler.close_connection = True


def drips(handler: BaseHTTPRequestHandler) -> None:
    """The same, a few bytes at a time."""
    for piece in (b"HTTP", b"/1.1", b" 2"):
        handler.wfile.write(piece)
        threading.Event().wait(0.05)
    handler.close_connection = True


@contextmanager
def serving(answer: Answer) -> Iterator[ScriptedServer]:
    """A server on a free port that answers like this."""
    server = ScriptedServer(answer)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
