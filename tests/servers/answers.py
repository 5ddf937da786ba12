"""What servers answer to tests over HTTP, and the error for what was not expected."""

from __future__ import annotations

from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

# A proxy of the surroundings must never stand between a test and a server on loopback.
OPENER = build_opener(ProxyHandler({}))


class AnswerError(Exception):
    """An answer other than the expected one; `status` is the HTTP status, `body` what came with it."""

    def __init__(self, request: str, status: int, body: str) -> None:
        super().__init__(f"{request}: {status} {body[:2000]}")
        self.status = status
        self.body = body


def send(request: Request, timeout_s: float) -> tuple[int, bytes]:
    """Status and body of the answer, whatever the status. No answer is an `OSError`."""
    try:
        with OPENER.open(request, timeout=timeout_s) as answer:
            return int(answer.status), bytes(answer.read())
    except HTTPError as error:
        with error:
            return error.code, error.read()
