"""The transport: which answer means what, Retry-After, and servers that answer oddly, late, or not at all."""

from __future__ import annotations

import email.utils
import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from metriclog.errors import (
    BadRequestError,
    PartialWriteError,
    QueryError,
    RejectedError,
    ServerError,
    TooLargeError,
    TransientError,
    UnparsableError,
)
from metriclog.settings import Settings
from metriclog.transport import MAX_RETRY_AFTER_S, Transport, classify
from tests.servers.scripted import Answer, ScriptedServer, breaks_off, drips, hangs_up, says, serving

TOKEN = "s3cr3t-t0ken"
LINE = b"metrics,run=r value=1,step=1i 1\n"

# What a server said → what it means. Texts as InfluxDB 2.9.1 (v2), InfluxDB 3 (v3) and openGemini (og) word them.
ANSWERS = [
    (None, "", TransientError),
    (0, "", TransientError),
    (408, "", TransientError),
    (425, "", TransientError),
    (429, '{"code":"too many requests","message":"org over limit"}', TransientError),
    (499, "", TransientError),
    (500, '{"code":"internal error","message":"unexpected error writing points to database: timeout"}', TransientError),
    (502, "<html>bad gateway</html>", TransientError),
    (503, "", TransientError),
    (504, "", TransientError),
    (599, "", TransientError),
    (400, '{"error":"wal buffer full with 99 ops"}', TransientError),  # v3
    (400, '{"error":"wal is shutdown and not accepting writes"}', TransientError),  # v3
    (400, '{"error":"readonly now and writing is not allowed"}', TransientError),  # og
    (400, '{"error":"request limit exceeded"}', TransientError),  # v3
    (401, '{"code":"unauthorized","message":"unauthorized access"}', RejectedError),
    (403, '{"code":"forbidden","message":"insufficient permissions"}', RejectedError),
    (404, '{"code":"not found","message":"bucket \\"m\\" not found"}', RejectedError),
    (404, '{"error":"database not found: \\"m\\""}', RejectedError),  # og
    (301, "", RejectedError),
    (302, "", RejectedError),
    (307, "", RejectedError),
    (405, "", RejectedError),
    (415, "", RejectedError),
    (501, "", RejectedError),
    (
        400,
        '{"code":"invalid","message":"invalid precision; valid precision units are ns, us, ms, and s"}',
        RejectedError,
    ),
    (413, '{"code":"request too large","message":"cannot read data: points batch is too large"}', TooLargeError),
    (400, '{"code":"invalid","message":"unable to parse \'m v=NaN 1\': invalid number"}', UnparsableError),
    (
        422,
        '{"code":"unprocessable entity","message":"failure writing points to database: partial write: field type '
        'conflict: input field \\"value\\" on measurement \\"metrics\\" is type float, already exists as type integer '
        'dropped=1"}',
        PartialWriteError,
    ),
    (400, '{"error":"partial write: field type conflict: input field ... dropped=1"}', PartialWriteError),  # og
    (400, '{"error":"line protocol parse failed: expected at least one space character"}', BadRequestError),  # v3
    (400, "", BadRequestError),
    (400, "<html>400 Bad Request</html>", BadRequestError),
]


@pytest.mark.parametrize(("status", "body", "kind"), ANSWERS)
def test_an_answer_means_what_the_facts_say(status: int | None, body: str, kind: type[ServerError]) -> None:
    error = classify(status, body, {})
    assert type(error) is kind
    assert error.status == status


@pytest.mark.parametrize(("status", "says"), [(401, "METRICLOG_TOKEN"), (403, "token"), (404, "METRICLOG_BUCKET")])
def test_a_wrong_configuration_says_which_setting_to_look_at(status: int, says: str) -> None:
    assert says in str(classify(status, "", {}))


def test_lines_that_cannot_be_parsed_come_with_the_reason_of_each() -> None:
    words = "unable to parse 'm v=NaN 1': invalid number\\nunable to parse 'm 2': missing fields"
    error = classify(400, f'{{"code":"invalid","message":"{words}"}}', {})
    assert isinstance(error, UnparsableError)
    assert error.reasons == {b"m v=NaN 1": "invalid number", b"m 2": "missing fields"}


def test_of_an_answer_that_was_cut_the_whole_lines_count() -> None:
    lines = [f'm,tag="{index}" v=NaN 1' for index in range(100)]
    words = "\n".join(f"unable to parse '{line}': invalid number" for line in lines)
    error = classify(400, json.dumps({"code": "invalid", "message": words})[:2000], {})
    assert isinstance(error, UnparsableError)
    assert 30 < len(error.reasons) < 40
    assert all(error.reasons[line.encode()] == "invalid number" for line in lines[:30])


ODD_CUTS = ['{"message":"', '{"message":"\\', '{"message":"\\u12', '{"a":{"message":"x', "{", '"']


@pytest.mark.parametrize("body", ODD_CUTS)
def test_an_answer_that_was_cut_in_an_odd_place_is_shown_as_it_is(body: str) -> None:
    assert body in str(classify(500, body, {}))


def test_reasons_of_single_lines_are_cut_and_made_printable_too() -> None:
    error = classify(400, json.dumps({"message": "unable to parse 'm v=1': \x1b[31m" + "x" * 5000}), {})
    assert isinstance(error, UnparsableError)
    (reason,) = error.reasons.values()
    assert len(reason) < 1000
    assert reason.isprintable()


def test_an_endless_or_garbled_body_is_cut_and_made_printable() -> None:
    text = str(classify(500, "\0\x1b[31m" + "x" * 1_000_000, {}))
    assert len(text) < 1000
    assert text.isprintable()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        ("1.5", 1.5),
        ("3600", MAX_RETRY_AFTER_S),
        ("inf", MAX_RETRY_AFTER_S),
        ("-5", 0.0),
        ("nan", None),
        ("soon", None),
        ("", None),
        ("Thu, 99 Foo 2026", None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Fri, 01 Jan 2100 00:00:00 GMT", MAX_RETRY_AFTER_S),
    ],
)
def test_retry_after_is_taken_within_bounds(value: str, seconds: float | None) -> None:
    error = classify(503, "", {"Retry-After": value})
    assert isinstance(error, TransientError)
    assert error.retry_after_s == seconds


def test_retry_after_as_a_date_is_the_time_until_then() -> None:
    error = classify(429, "", {"Retry-After": email.utils.formatdate(time.time() + 100, usegmt=True)})
    assert isinstance(error, TransientError)
    assert error.retry_after_s == pytest.approx(100.0, abs=2.0)


# -- a server that follows a script -----------------------------------------------------------------------------

Serve = Callable[[Answer], ScriptedServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as servers:
        yield lambda answer: servers.enter_context(serving(answer))


def transport(url: str, **more: object) -> Transport:
    return Transport(Settings(url=url, token=TOKEN, org="o", bucket="b & c", read_timeout_s=0.3, **more))  # type: ignore[arg-type]


def test_a_yes_is_204_to_a_gzipped_post_with_token_bucket_and_ns(serve: Serve) -> None:
    server = serve(says(204))
    target = transport(server.url, gzip="always")
    target.write(LINE)
    target.close()
    ((method, path, headers, body),) = server.requests
    assert (method, urlsplit(path).path) == ("POST", "/api/v2/write")
    assert parse_qs(urlsplit(path).query) == {"org": ["o"], "bucket": ["b & c"], "precision": ["ns"]}
    assert headers["Authorization"] == f"Token {TOKEN}"
    assert headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(body) == LINE


def test_a_post_to_this_machine_itself_is_not_compressed(serve: Serve) -> None:
    server = serve(says(204))
    target = transport(server.url)
    target.write(LINE)
    target.close()
    ((_, _, headers, body),) = server.requests
    assert (headers["Content-Encoding"], body) == ("identity", LINE)


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (says(200, b"<html>please log in</html>", Content_Type="text/html"), RejectedError, "text/html"),
        (says(201), RejectedError, "201"),
        (says(401, b'{"message":"unauthorized access"}'), RejectedError, "401: unauthorized access"),
        (says(404, b'{"message":"bucket not found"}'), RejectedError, "METRICLOG_BUCKET"),
        (says(413), TooLargeError, "413"),
        (says(422, b'{"message":"partial write: x dropped=1"}'), PartialWriteError, "partial write"),
        (says(429, Retry_After="3"), TransientError, "429"),
        (says(503, b"\xff\xfe not utf-8", Retry_After="3"), TransientError, "503: \ufffd\ufffd not utf-8"),
        (hangs_up, TransientError, "no answer from http://127.0.0.1"),
        (breaks_off, TransientError, "no answer from http://127.0.0.1"),
        (drips, TransientError, "no answer from http://127.0.0.1"),
    ],
)
def test_any_other_answer_is_an_error_of_ours_without_the_token(
    serve: Serve, answer: Answer, kind: type[ServerError], words: str
) -> None:
    target = transport(serve(answer).url)
    with pytest.raises(kind) as caught:
        target.write(LINE)
    target.close()
    assert words in str(caught.value)
    assert not told_token(caught.value)


def told_token(error: BaseException | None) -> bool:
    """Whether the token is in an error or in what it was raised from."""
    while error is not None:
        if TOKEN in f"{error} {error!r} {error.args} {vars(error)}":
            return True
        error = error.__cause__
    return False


def test_retry_after_of_a_real_answer_reaches_the_error(serve: Serve) -> None:
    target = transport(serve(says(429, retry_after="3")).url)
    with pytest.raises(TransientError) as caught:
        target.write(LINE)
    target.close()
    assert caught.value.retry_after_s == 3.0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_never_followed(serve: Serve, status: int) -> None:
    elsewhere = serve(says(204))
    server = serve(says(status, Location=f"{elsewhere.url}/api/v2/write"))
    target = transport(server.url)
    with pytest.raises(RejectedError, match=str(status)):
        target.write(LINE)
    with pytest.raises(ServerError):
        target.query("SHOW DATABASES")
    assert not target.healthy()
    target.close()
    assert [urlsplit(path).path for _, path, _, _ in server.requests] == [
        "/api/v2/write", "/query", "/health", "/ping",
    ]  # fmt: skip
    assert elsewhere.requests == [], "the token went to another address"


def test_a_server_that_says_nothing_is_given_up_at_the_read_timeout(
    serve: Serve,
) -> None:
    done = threading.Event()

    def says_nothing(_: BaseHTTPRequestHandler) -> None:
        done.wait(30.0)

    server = serve(says_nothing)
    target = transport(server.url)
    begin_s = time.monotonic()
    with pytest.raises(TransientError, match="no answer"):
        target.write(LINE)
    assert time.monotonic() - begin_s < 5.0
    done.set()
    target.close()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://no-such-host.invalid:8086"])
def test_a_closed_port_or_an_unknown_host_may_pass(url: str) -> None:
    target = transport(url)
    with pytest.raises(TransientError, match="no answer from http://"):
        target.write(LINE)
    with pytest.raises(TransientError, match="no answer"):
        target.query("SHOW DATABASES")
    target.close()


def test_after_a_refusal_the_token_file_is_read_again(serve: Serve, tmp_path: Path) -> None:
    def checks(handler: BaseHTTPRequestHandler) -> None:
        says(204 if handler.headers["Authorization"] == "Token right" else 401)(handler)

    file = tmp_path / "token"
    file.write_text("wrong\n")
    target = transport(serve(checks).url, token_file=file)
    with pytest.raises(RejectedError):
        target.write(LINE)
    file.write_text("right\n")
    target.write(LINE)
    file.unlink()
    target.write(LINE)  # not read again while the server says yes
    target.close()


def test_a_token_file_that_is_missing_is_a_refusal_that_names_the_file(tmp_path: Path) -> None:
    target = transport("http://127.0.0.1:1", token_file=tmp_path / "token")
    with pytest.raises(RejectedError, match=r"METRICLOG_TOKEN_FILE .*token cannot be read"):
        target.write(LINE)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (says(200, b"<html>please log in</html>"), QueryError),
        (says(200, b'{"results":[{"statement_id":0,"error":"database is locked"}]}'), QueryError),
        (says(400, b'{"error":"error parsing query: found FROM"}'), QueryError),
        (says(401, b'{"error":"unauthorized"}'), RejectedError),
        (says(503), TransientError),
        (hangs_up, TransientError),
    ],
)
def test_a_query_that_fails_is_an_error_of_ours_without_the_token(
    serve: Serve, answer: Answer, kind: type[Exception]
) -> None:
    target = transport(serve(answer).url)
    with pytest.raises(kind) as caught:
        target.query("SELECT 1")
    target.close()
    assert not told_token(caught.value)


def test_a_measurement_that_does_not_exist_yet_is_an_empty_answer(serve: Serve) -> None:
    target = transport(serve(says(200, b'{"results":[{"error":"measurement not found"}]}')).url)
    assert target.query("SELECT 1") == []
    target.close()


@pytest.mark.parametrize(
    ("answer", "well"), [(says(200), True), (says(204), True), (says(503), False), (hangs_up, False)]
)
def test_healthy_asks_the_server_and_never_raises(serve: Serve, answer: Answer, well: bool) -> None:
    target = transport(serve(answer).url)
    assert target.healthy() is well
    target.close()


def test_targets_differ_by_address_organisation_and_bucket_alone() -> None:
    def target(**given: str) -> str:
        return Transport(Settings(**{"url": "http://a", "token": "t", **given})).target  # type: ignore[arg-type]

    assert target() == target(token="u") == target(url="http://a/")
    assert len({target(), target(url="http://b"), target(org="o"), target(bucket="b")}) == 4
