"""The only file that talks to InfluxDB: `write(lines)` and `query(influxql)`; every answer becomes one of our errors.

Knows influxdb_client and HTTP status codes. The classes of answers are measured on InfluxDB 2.9.1, openGemini and, for
InfluxDB 3, read in its source; see `classify`.
"""

from __future__ import annotations

import email.utils
import gzip
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from metriclog.errors import (
    BadRequestError,
    PartialWriteError,
    QueryError,
    RejectedError,
    ServerError,
    SettingsError,
    TooLargeError,
    TransientError,
    UnparsableError,
)
from metriclog.importing import importing
from metriclog.settings import Settings

if TYPE_CHECKING:
    from influxdb_client import InfluxDBClient
    from influxdb_client.service.write_service import WriteService

MAX_ERROR_CHARS = 600  # of a server's words in a message
MAX_ANSWER_BYTES = 64 << 10  # read of an answer that only has to be said or understood, whoever sends it
MAX_RETRY_AFTER_S = 300.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")
GZIP_LEVEL = 1  # 114 MB/s against 17 MB/s at level 9, for 13 % larger bodies
_TRANSIENT_400 = ("wal buffer full", "wal is shutdown", "readonly now", "request limit", "too many requests")
_CUT_MESSAGE = re.compile(r'\s*\{[^{}\[\]]*?"(?:message|error)"\s*:\s*"((?:[^"\\]|\\.)*)\Z', re.DOTALL)
_UNPARSABLE = re.compile(r"unable to parse '(.*?)': (.*?)(?=\nunable to parse '|\Z)", re.DOTALL)


def _import_client() -> None:
    """Import influxdb_client, half a second of CPU: only who ships or queries pays."""
    with importing:
        import influxdb_client.service.write_service  # noqa: F401

        "localhost".encode("idna")  # or the first connection imports the codec; a fork then leaves the child without it


class Transport:
    """One target: a URL, an organisation, a bucket. Connects at the first call; not shared between threads.

    `write` raises the `ServerError` that `classify` finds; `query` raises `QueryError` or `ServerError`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: InfluxDBClient | None = None
        self._service: WriteService | None = None
        self._token: str | None = None
        host = urlsplit(settings.url or "").hostname
        self._compress = settings.gzip == "always" or (settings.gzip == "auto" and host not in LOOPBACK)
        self.target = sha256(f"{settings.url}|{settings.org}|{settings.bucket}".encode()).hexdigest()[:12]

    @property
    def address(self) -> str:
        """Where it writes, for messages: URL and bucket, never the token."""
        return f"{self._settings.url} (bucket {self._settings.bucket!r})"

    def write(self, lines: bytes) -> None:
        """Post line protocol, times in ns. Returns only after the server's 204."""
        _import_client()
        from urllib3.exceptions import HTTPError

        try:
            _, status, headers = self._connect().post_write_with_http_info(
                self._settings.org,
                self._settings.bucket,
                gzip.compress(lines, GZIP_LEVEL) if self._compress else lines,
                content_encoding="gzip" if self._compress else "identity",
                precision="ns",
                content_type="text/plain; charset=utf-8",
                _return_http_data_only=False,
                _request_timeout=self._timeout_ms(),
            )
        except _AnswerError as answer:
            failure = self._classified(answer)
            if isinstance(failure, RejectedError):
                self.close()  # so that the next attempt reads the token file again
            raise failure from None
        except SettingsError as error:
            raise RejectedError(str(error)) from error
        except (HTTPError, OSError) as error:
            raise self._no_answer(error) from error
        if status != 204:
            kind = _clean((headers or {}).get("Content-Type", "no content type"))
            raise RejectedError(f"{self.address} answered {status} ({kind}), not InfluxDB's 204", status=status)

    def query(self, influxql: str) -> list[dict[str, Any]]:
        """Run one InfluxQL statement; its series as `{"name", "tags", "columns", "values"}`, times in ns."""
        _import_client()
        from urllib3.exceptions import HTTPError

        try:
            answer = self._connections().request(
                "POST",
                f"{self._settings.url}/query",
                fields={"db": self._settings.bucket, "q": influxql, "epoch": "ns"},
                encode_multipart=False,
                headers={"Authorization": f"Token {self._settings.read_token()}", "Accept": "application/json"},
                timeout=self._settings.read_timeout_s,
                whole=True,
            )
        except _AnswerError as said:
            failure = self._classified(said)
            query = isinstance(failure, BadRequestError)
            raise (QueryError(f"{failure}: {influxql}") if query else failure) from None
        except (HTTPError, OSError) as error:
            raise self._no_answer(error) from error
        return _series(answer.data, influxql)

    def healthy(self) -> bool:
        """Whether the server says that it is well (`/health`, or `/ping` where there is none); never raises."""
        _import_client()
        from urllib3.exceptions import HTTPError

        try:
            return any(self._is_well(path) for path in ("/health", "/ping"))
        except (HTTPError, OSError, SettingsError):
            return False

    def _is_well(self, path: str) -> bool:
        try:
            answer = self._connections().request("GET", f"{self._settings.url}{path}", timeout=5.0)
            return answer.status in (200, 204)
        except _AnswerError:
            return False

    def another(self) -> Transport:
        """A transport of its own for another thread, to the same place."""
        return Transport(self._settings)

    def close(self) -> None:
        """Drop the connections; the next call connects again."""
        client, self._client, self._service = self._client, None, None
        if client is not None:
            client.close()

    def _classified(self, answer: _AnswerError) -> ServerError:
        """The error behind an answer, without the token: some servers repeat the request in it."""
        token = self._token or ""
        words = answer.said.replace(token, "***") if len(token) >= 8 else answer.said  # shorter ones are words
        return classify(answer.status, words, answer.headers)

    def _no_answer(self, error: Exception) -> ServerError:
        words = f"no answer from {self.address}: {_brief(error)}"
        if "CERTIFICATE_VERIFY_FAILED" in words:
            return RejectedError(f"{words}. METRICLOG_CA_FILE can name the authority to trust")
        return TransientError(words)

    def _connections(self) -> _Connections:
        self._connect()
        assert self._client is not None
        connections: _Connections = self._client.api_client.rest_client.pool_manager
        return connections

    def _connect(self) -> WriteService:
        if self._service is None:
            from influxdb_client import InfluxDBClient
            from influxdb_client.service.write_service import WriteService

            settings = self._settings
            self._token = settings.read_token()
            with importing:  # it imports the rest
                self._client = InfluxDBClient(
                    url=settings.url,
                    token=self._token,
                    org=settings.org,
                    timeout=self._timeout_ms(),
                    verify_ssl=settings.verify_tls,
                    ssl_ca_cert=str(settings.ca_file) if settings.ca_file else None,
                    proxy=settings.proxy,
                    retries=False,  # tenacity does the retrying; False also means that no redirect is followed
                )
            rest = self._client.api_client.rest_client
            rest.pool_manager = _Connections(rest.pool_manager)
            self._service = WriteService(self._client.api_client)
        return self._service

    def _timeout_ms(self) -> tuple[int, int]:
        return round(self._settings.connect_timeout_s * 1000), round(self._settings.read_timeout_s * 1000)


class _AnswerError(Exception):
    """An answer that is no 2xx, with the beginning of what it says."""

    def __init__(self, status: int, headers: Mapping[str, str], said: str) -> None:
        super().__init__(status)
        self.status, self.headers, self.said = status, headers, said


@dataclass(slots=True)
class _Answer:
    """What influxdb_client wants to see of an answer."""

    status: int
    reason: str | None
    headers: Mapping[str, str]
    data: bytes


class _Connections:
    """The connection pool under influxdb_client, without its trust in answers.

    By itself the client reads an answer of any size into memory, fails on one that is no UTF-8 without telling its
    status, and for one that is no JSON calls `logging.debug`, which sets up the logging of the whole program.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def request(self, method: str, url: str, *, whole: bool = False, **options: Any) -> _Answer:
        """A 2xx answer: its first MAX_ANSWER_BYTES, all if `whole`. Raises `_AnswerError`, urllib3's, `OSError`."""
        from urllib3.exceptions import SSLError

        options |= {"preload_content": False, "redirect": False}
        try:
            answer = self._pool.request(method, url, **options)
        except SSLError as error:  # the client would make an answer of status 0 of it
            raise OSError(str(error)) from error
        good = 200 <= answer.status <= 299
        data = answer.read(None if whole and good else MAX_ANSWER_BYTES, decode_content=whole and good)
        if len(data) >= MAX_ANSWER_BYTES and not (whole and good):
            answer.close()  # there may be more; nobody wants it
        answer.release_conn()
        if not good:
            raise _AnswerError(answer.status, answer.headers, _text(data))
        return _Answer(answer.status, answer.reason, answer.headers, data if whole else _text(data).encode())

    def clear(self) -> None:
        """Close all."""
        self._pool.clear()


def classify(status: int | None, body: str, headers: Mapping[str, str]) -> ServerError:
    """The error behind an answer that is not a yes. What can pass is never taken for final."""
    words = _message(body)
    said = f"the server said {status}: {words}"
    low = words.lower()
    if status == 400 and any(text in low for text in _TRANSIENT_400):
        return TransientError(said, status=status)
    if not status or status in (408, 425, 429, 499) or (status >= 500 and status != 501):
        return TransientError(said, status=status, retry_after_s=retry_after_s(headers.get("Retry-After")))
    if status == 413:
        return TooLargeError(said, status=status)
    if status == 422 or (status == 400 and "partial write" in low):
        return PartialWriteError(said, status=status)
    if status == 400 and "invalid precision" not in low:
        reasons = {line.encode(): _clean(why) for line, why in _UNPARSABLE.findall(_message(body, None))}
        if reasons:
            return UnparsableError(said, status=status, reasons=reasons)
        return BadRequestError(said, status=status)
    return RejectedError(f"{said}{_HINTS.get(status, '')}", status=status)


_HINTS = {
    401: ". Check METRICLOG_TOKEN",
    403: ". The token may not write to this bucket; make one that may",
    404: ". Check METRICLOG_BUCKET and METRICLOG_ORG, or create the bucket",
}


def retry_after_s(value: str | None) -> float | None:
    """Seconds from a Retry-After header (a number or a date), within 0 and MAX_RETRY_AFTER_S; None if unusable."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError):
            return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S) if seconds == seconds else None


def _text(body: object) -> str:
    return body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body or "")


def _message(body: str, limit: int | None = MAX_ERROR_CHARS) -> str:
    """The server's own words out of a JSON error body, printable and cut."""
    try:
        loaded = json.loads(body)
        words = str(loaded.get("message") or loaded.get("error") or body) if isinstance(loaded, dict) else body
    except ValueError:
        words = _cut_message(body) or body
    return words if limit is None else _clean(words, limit)


def _cut_message(body: str) -> str | None:
    """The whole lines of the message in a JSON error body that was cut; None if there is none."""
    found = _CUT_MESSAGE.match(body)
    whole = found[1].rpartition("\\n")[0] if found else ""
    try:
        return str(json.loads(f'"{whole}"')) or None
    except ValueError:
        return None


def _clean(words: str, limit: int = MAX_ERROR_CHARS) -> str:
    """Somebody else's words, printable and cut, for a terminal and a log."""
    clean = "".join(char if char.isprintable() else " " for char in words[: 2 * limit])
    return clean[:limit] + ("…" if len(clean) > limit else "")


def _brief(error: BaseException) -> str:
    """What happened, without urllib3's "HTTPConnectionPool(host=…): " in front."""
    return _message(re.sub(r"^(\w+\(.*?\): )+", "", str(error)))


def _whole(digits: str) -> int | float:
    """A JSON int; but `-0` is the float -0.0, of which InfluxDB leaves the fraction out."""
    return -0.0 if digits == "-0" else int(digits)


def _series(data: bytes, influxql: str) -> list[dict[str, Any]]:
    try:
        result = json.loads(data, parse_int=_whole)["results"][0]
    except (ValueError, KeyError, IndexError) as error:
        raise QueryError(f"this is no InfluxQL answer: {_message(_text(data))}") from error
    if "error" in result:
        if "measurement not found" in result["error"]:  # openGemini says so before the first point
            return []
        raise QueryError(f"{_clean(str(result['error']))}: {influxql}")
    series: list[dict[str, Any]] = result.get("series", [])
    return series
