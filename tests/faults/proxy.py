"""FaultProxy: a scripted TCP proxy on loopback in front of a real InfluxDB. Each write goes wrong as a test says.

    with FaultProxy(influx.url) as proxy:
        proxy.play(lose_ack, reset_mid_body)   # the next two writes; what comes after passes
        proxy.always = portal                  # every write, until it is None again

A fault is a function of one `Exchange`: it reads as much of the request as it likes, asks the real server or not, and
answers, or does not. Everything but writes (`/query`, `/health`) passes, unless `everything` is set.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import BinaryIO, Self
from urllib.parse import urlsplit

DRIP_PAUSE_S = 0.002
SWALLOW_S = 30.0  # how long a black hole stays open, unless the proxy is closed before
_RST = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


@dataclass
class Answer:
    """What the real server said."""

    status: int
    head: bytes
    body: bytes

    @property
    def whole(self) -> bytes:
        """As it goes over the wire."""
        return self.head + self.body


class Exchange:
    """One request of a client, and the ways to deal with it."""

    def __init__(self, proxy: FaultProxy, client: socket.socket, reader: BinaryIO, head: bytes) -> None:
        self._proxy, self._client, self._reader, self.head = proxy, client, reader, head
        self.method, self.path, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        fields = dict(line.split(": ", 1) for line in head.decode("latin-1").split("\r\n")[1:] if line)
        self.headers = {name.lower(): value for name, value in fields.items()}
        self.length = int(self.headers.get("content-length", 0))
        self._body = b""
        self.open = True  # whether the connection goes on afterwards

    @property
    def is_write(self) -> bool:
        """Whether it is a POST of line protocol."""
        return "/write" in self.path

    def read(self, at_most: int | None = None) -> bytes:
        """The request's body so far, after reading up to `at_most` bytes of it in all; None: the whole."""
        wanted = self.length if at_most is None else min(at_most, self.length)
        self._body += self._reader.read(wanted - len(self._body))
        return self._body

    def forward(self) -> Answer:
        """Hand the whole request to the real server."""
        upstream = http.client.HTTPConnection(self._proxy.host, self._proxy.port, timeout=60.0)
        headers = {name: value for name, value in self.headers.items() if name != "connection"}
        try:
            upstream.request(self.method, self.path, self.read(), headers)
            answer = upstream.getresponse()
            body = answer.read()
        finally:
            upstream.close()
        kept = [(n, v) for n, v in answer.getheaders() if n.lower() not in ("transfer-encoding", "content-length")]
        kept += [("Content-Length", str(len(body)))] if answer.status != 204 else []
        lines = [f"HTTP/1.1 {answer.status} {answer.reason}", *(f"{name}: {value}" for name, value in kept), "", ""]
        return Answer(answer.status, "\r\n".join(lines).encode("latin-1"), body)

    def forward_half(self) -> None:
        """Hand the head and half of the body to the real server, then hang up on it."""
        half = self.read(self.length // 2)
        with socket.create_connection((self._proxy.host, self._proxy.port), timeout=10.0) as upstream:
            upstream.sendall(self.head + b"\r\n" + half)
            upstream.shutdown(socket.SHUT_WR)
            while upstream.recv(65536):  # its complaint; returning means that it is done with the request
                pass

    def send(self, data: bytes) -> None:
        """Send bytes to the client."""
        self._client.sendall(data)

    def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answer by the script, e.g. `say(503, retry_after="3")`."""
        self.read()
        lines = [f"HTTP/1.1 {status} Scripted", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode() + body)

    def drip(self, data: bytes) -> None:
        """Send bytes one by one."""
        for index in range(len(data)):
            self.send(data[index : index + 1])
            self._proxy.closing.wait(DRIP_PAUSE_S)

    def hang_up(self) -> None:
        """Close the connection after what has been sent."""
        self.open = False

    def reset(self) -> None:
        """Close the connection with a RST."""
        self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        self.open = False

    def swallow(self) -> None:
        """Say nothing, and keep the connection, until the client has hung up or the proxy closes."""
        self._client.settimeout(0.02)
        deadline_s = time.monotonic() + SWALLOW_S
        while not self._proxy.closing.is_set() and time.monotonic() < deadline_s:
            with contextlib.suppress(TimeoutError):
                if not self._client.recv(65536):
                    break
        self.open = False


Fault = Callable[[Exchange], None]


def passes(exchange: Exchange) -> None:
    """Nothing goes wrong."""
    exchange.send(exchange.forward().whole)


def reset_at_once(exchange: Exchange) -> None:
    """RST as soon as the head is there."""
    exchange.reset()


def reset_mid_body(exchange: Exchange) -> None:
    """RST in the middle of the body; the server saw nothing."""
    exchange.read(exchange.length // 2)
    exchange.reset()


def cut_request(exchange: Exchange) -> None:
    """The server gets half of the body, the client a closed connection."""
    exchange.forward_half()
    exchange.hang_up()


def black_hole(exchange: Exchange) -> None:
    """The request goes nowhere, and nothing comes back."""
    exchange.read()
    exchange.swallow()


def silent_ack(exchange: Exchange) -> None:
    """The server stores it, and nothing comes back."""
    assert exchange.forward().status == 204
    exchange.swallow()


def lose_ack(exchange: Exchange) -> None:
    """The server stores it and says 204; the connection closes before a byte of that arrives."""
    assert exchange.forward().status == 204
    exchange.hang_up()


def truncate_answer(exchange: Exchange) -> None:
    """The server stores it; the answer ends within its first line."""
    exchange.send(exchange.forward().whole[:10])
    exchange.hang_up()


def drip_answer(exchange: Exchange) -> None:
    """The server stores it; the answer arrives byte by byte."""
    exchange.drip(exchange.forward().whole)


def drip_and_hang_up(exchange: Exchange) -> None:
    """The server stores it; a few bytes of the answer arrive, one by one, then no more."""
    exchange.drip(exchange.forward().whole[:11])
    exchange.hang_up()


def portal(exchange: Exchange) -> None:
    """A captive portal: 200 and a page to log in."""
    exchange.say(200, b"<html><body>Welcome to our WLAN! Please log in.</body></html>", content_type="text/html")


def says(status: int, body: bytes = b"", **headers: str) -> Fault:
    """Answer like this without asking the server."""
    return lambda exchange: exchange.say(status, body, **headers)


def fails_on(words: bytes, fault: Fault) -> Fault:
    """A fault for every body that holds these words."""

    def judge(exchange: Exchange) -> None:
        (fault if words in exchange.read() else passes)(exchange)

    return judge


@dataclass
class Post:
    """A write that came by."""

    lines: int
    size_bytes: int
    fault: str


@dataclass
class FaultProxy:
    """See the top of this file. `posts` has every write whose body was read, `paths` every request."""

    upstream: str
    always: Fault | None = None
    everything: bool = False
    tls: ssl.SSLContext | None = None
    posts: list[Post] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        parts = urlsplit(self.upstream)
        self.host, self.port = parts.hostname or "", parts.port or 0
        self.closing = threading.Event()
        self._next: deque[Fault] = deque()
        self._clients: set[socket.socket] = set()
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._address = ("127.0.0.1", 0)

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self.refuse()

    @property
    def url(self) -> str:
        """Where clients connect to; stays the same."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self._address[1]}"

    def play(self, *faults: Fault) -> None:
        """One fault for each of the next writes."""
        self._next.extend(faults)

    def listen(self) -> None:
        """Take connections, on the same port as before."""
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(self._address)
        self._socket.listen(64)
        self._address = self._socket.getsockname()
        threading.Thread(target=self._accept, args=(self._socket,), daemon=True).start()

    def refuse(self) -> None:
        """Close the port, and every connection."""
        listening, self._socket = self._socket, None
        if listening is not None:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)  # wakes accept()
            listening.close()
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Nobody listens inside the block."""
        self.refuse()
        try:
            yield
        finally:
            self.listen()

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            self._clients.add(client)
        try:
            with client, contextlib.suppress(OSError, http.client.HTTPException):
                talk = self.tls.wrap_socket(client, server_side=True) if self.tls else client
                with talk, talk.makefile("rb") as reader:
                    while self._exchange(talk, reader):
                        pass
        finally:
            with self._lock:
                self._clients.discard(client)

    def _exchange(self, client: socket.socket, reader: BinaryIO) -> bool:
        head = b""
        while (line := reader.readline()) not in (b"\r\n", b""):
            head += line
        if not head or b" HTTP/1." not in head:
            return False
        exchange = Exchange(self, client, reader, head)
        self.paths.append(exchange.path)
        fault = self._fault_for(exchange)
        try:
            fault(exchange)
        finally:
            if exchange.is_write:
                body = exchange._body
                self.posts.append(Post(body.count(b"\n"), len(body), getattr(fault, "__name__", "scripted")))
        return exchange.open

    def _fault_for(self, exchange: Exchange) -> Fault:
        if not (exchange.is_write or self.everything):
            return passes
        with self._lock:
            return self._next.popleft() if self._next else self.always or passes
