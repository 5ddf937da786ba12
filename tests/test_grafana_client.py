"""What a Grafana may answer, each with one line that says what to do; and where its token goes: nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from metriclog.errors import GrafanaError, SettingsError
from metriclog.grafana.client import Grafana
from metriclog.settings import Settings
from tests.commands import metriclog
from tests.servers.scripted import Answer, breaks_off, hangs_up, says, serving
from tests.servers.scripted_grafana import ScriptedGrafana, scripted_grafana

UID = "metriclog-runs"
SOURCE = "metriclog-influxql"
TOKEN = "glsa_s3cr3t-t0ken"
INFLUX_TOKEN = "influx-s3cr3t"


@pytest.fixture
def grafana() -> Iterator[ScriptedGrafana]:
    """An empty Grafana."""
    with scripted_grafana() as server:
        yield server


def grafana_at(url: str, **settings: Any) -> Grafana:
    return Grafana(Settings(grafana_url=url, grafana_token=TOKEN, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            says(401, b'{"message":"Invalid API key"}'),
            "does not take this token: Invalid API key. Check METRICLOG_GRAFANA",
        ),
        (says(403, b'{"message":"[/red] no"}'), r"\[/red\] no.*role Viewer"),
        (says(404, b"<!DOCTYPE html><p>nginx"), "404: a page of HTML.*METRICLOG_GRAFANA_URL"),
        (says(302, Location="http://other.example/login"), "points to http://other.example/login: give that address"),
        (says(500, b""), r"500: no words\)"),
        (says(503, b'{"database":"failing"}'), "503: .*failing"),
        (says(200, b"<html>"), "is no Grafana"),
        (says(200, b'{"name":"influxdb","status":"pass"}'), "is no Grafana"),
        (says(200, b"[]"), "is no Grafana"),
        (says(404, b"x" * 5000), "x{300}…"),
        (hangs_up, "no answer from http://127.0.0.1:"),
        (breaks_off, "no answer from http://127.0.0.1:"),
    ],
)
def test_every_answer_ends_the_command_with_one_line_that_says_what_to_do(answer: Answer, words: str) -> None:
    with serving(answer) as server:
        code, out, err = metriclog("provision", "--apply", "--url", server.url, grafana_token=TOKEN)
    assert (code, out) == (1, "")
    assert re.match(r"metriclog: [^\n]*\n\Z", err)
    assert re.search(words, err), err


def test_nobody_there_is_said_with_what_to_check() -> None:
    code, _, err = metriclog("provision", "--check", "--url", "http://127.0.0.1:1", grafana_token=TOKEN)
    assert code == 1
    assert re.search(
        r"no answer from http://127.0.0.1:1: [^<]*refused. Is Grafana running, and is METRICLOG_GRAFANA", err
    )


def test_without_a_token_a_refusal_says_where_to_get_one(grafana: ScriptedGrafana) -> None:
    for status in (401, 403):
        grafana.instead[f"GET /api/datasources/uid/{SOURCE}"] = says(status, b'{"message":"Unauthorized"}')
        with pytest.raises(
            GrafanaError, match=r"wants a token.* Set METRICLOG_GRAFANA_TOKEN .*Service accounts"
        ) as caught:
            Grafana(Settings(grafana_url=grafana.url)).datasource(SOURCE)
        assert caught.value.status == status


def test_a_wrong_token_is_said_where_grafana_passes_over_it_in_silence(grafana: ScriptedGrafana) -> None:
    grafana.instead["GET /api/user"] = says(401, b'{"message":"Unauthorized"}')
    code, out, err = metriclog("provision", "--check", "--url", grafana.url, grafana_token=TOKEN)
    assert (code, out) == (1, "")
    assert "does not take this token: Unauthorized" in err


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_grafana_that_cannot_say_whose_token_it_is_is_taken_as_it_is(grafana: ScriptedGrafana, status: int) -> None:
    grafana.instead["GET /api/user"] = says(status, b"{}")
    grafana_at(grafana.url).check_token()


def test_without_a_token_none_is_sent(grafana: ScriptedGrafana) -> None:
    assert metriclog("provision", "--check", "--url", grafana.url)[0] == 1
    assert not any("Authorization" in headers for _, _, headers, _ in grafana.requests)


@pytest.mark.parametrize("body", [b"{}", b'{"meta":[],"dashboard":{}}', b'{"meta":{},"dashboard":5}', b"[1]"])
def test_a_dashboard_that_is_none_is_an_error_of_ours(grafana: ScriptedGrafana, body: bytes) -> None:
    grafana.instead["GET /api/dashboards/uid/x"] = says(200, body)
    with pytest.raises(GrafanaError, match="is no Grafana"):
        grafana_at(grafana.url).dashboard("x")


def test_a_grafana_below_a_path_is_asked_there() -> None:
    with serving(says(200, b'{"database":"ok"}')) as server:
        assert grafana_at(f"{server.url}/grafana/").version() == ""
    assert [path for _, path, _, _ in server.requests] == ["/grafana/api/health"]


def test_the_token_goes_to_the_given_address_and_into_no_output(grafana: ScriptedGrafana) -> None:
    with serving(says(302, Location=f"{grafana.url}/api/health")) as elsewhere:
        metriclog("provision", "--check", "--url", elsewhere.url, "--token", TOKEN)
    assert grafana.requests == [], "no redirect is followed"

    grafana.instead[f"GET /api/dashboards/uid/{UID}"] = lambda handler: says(
        500, f'{{"message":"you sent {handler.headers["Authorization"]}"}}'.encode()
    )(handler)
    _, out, err = metriclog("provision", "--apply", "--url", grafana.url, "--token", TOKEN, token=INFLUX_TOKEN)
    assert "you sent Bearer ***" in err
    assert TOKEN not in out + err and INFLUX_TOKEN not in out + err
    assert {headers["Authorization"] for _, _, headers, _ in grafana.requests} == {f"Bearer {TOKEN}"}
    assert TOKEN not in repr(Settings(grafana_token=TOKEN))  # type: ignore[arg-type]


def test_a_token_that_no_header_can_carry_is_refused_without_being_shown() -> None:
    with pytest.raises(SettingsError, match="Grafana's token has line breaks") as caught:
        Grafana(Settings(grafana_token="two\nlines"))  # type: ignore[arg-type]
    assert "two" not in str(caught.value)


def test_a_token_from_a_file_may_end_in_a_line_break(grafana: ScriptedGrafana) -> None:
    assert metriclog("provision", "--check", "--url", grafana.url, grafana_token=f"{TOKEN}\n")[0] == 1
    assert grafana.requests[-1][2]["Authorization"] == f"Bearer {TOKEN}"


def test_a_proxy_that_is_none_is_an_error_of_the_settings() -> None:
    with pytest.raises(SettingsError, match="METRICLOG_PROXY"):
        grafana_at("http://127.0.0.1:1", proxy="socks9://x")


def test_an_address_that_is_none_is_one_line() -> None:
    assert re.match("metriclog: METRICLOG_GRAFANA_URL: ", metriclog("provision", "--check", "--url", "grafana:3000")[2])
    assert re.match("metriclog: which Grafana", metriclog("provision", "--check", "--url", "")[2])
