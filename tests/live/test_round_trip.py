"""What our encoder makes, the real server takes and gives back: no name, text or number is changed, lost or added."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metriclog import points
from metriclog.identity import Identity
from metriclog.points import Field, Tags
from tests import accepted
from tests.accepted import bits
from tests.servers.api import Influx, Server

# One example is one batch of many points: the server's time goes into batches, hypothesis' time into points.
BATCHES = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
STARTED_NS = 1_795_000_000_000_000_000
LATEST_NS = points.MAX_TIME_NS - 1
COUNTER = itertools.count()

Stored = dict[tuple[frozenset[tuple[str, str]], int], dict[str, Any]]


def read_back(server: Server, bucket: Influx, measurement: str, run: str) -> Stored:
    """Every point of a run: (tags, time) → fields. JSON's `-0` is kept a float, which Python would make the int 0."""
    query = f"""SELECT * FROM "{measurement}" WHERE "run" = '{run}' GROUP BY *"""
    answer = server.call("POST", "/query", {"db": bucket.bucket, "epoch": "ns", "q": query})
    results = json.loads(answer, parse_int=lambda text: -0.0 if text == "-0" else int(text))["results"]
    stored: Stored = {}
    for series in results[0].get("series", []):
        tags = frozenset((key, value) for key, value in series["tags"].items() if value != "")
        for row in series["values"]:
            fields = dict(zip(series["columns"], row, strict=True))
            time_ns = fields.pop("time")
            stored[tags, time_ns] = {key: value for key, value in fields.items() if value is not None}
    return stored


def exact(fields: dict[str, Any], floats: tuple[str, ...]) -> dict[str, Any]:
    """Fields with their floats as bits: -0.0 is not 0.0."""
    return {key: bits(float(value)) if key in floats else value for key, value in fields.items()}


def metric_fields(time_ns: int, step: int, value: float) -> dict[str, Any]:
    rest = {"step": step, "elapsed": (time_ns - STARTED_NS) // 1_000_000}
    if math.isfinite(value):
        return exact({"value": value, **rest}, ("value",))
    return {"nonfinite": 1 if math.isnan(value) else 2 if value > 0 else 3, **rest}


@st.composite
def shapes(draw: st.DrawFn) -> tuple[dict[str, str], list[str], list[tuple[Any, ...]]]:
    """User tags, metrics, and rows without their times."""
    metrics = draw(st.lists(accepted.names(), min_size=1, max_size=6, unique=True))
    row = st.tuples(accepted.INT64, *[accepted.FLOATS for _ in metrics])
    return draw(accepted.tags(3)), metrics, draw(st.lists(row, min_size=1, max_size=4))


@BATCHES
@given(calls=st.lists(shapes(), min_size=1, max_size=8), experiment=accepted.names())
def test_metrics_come_back_bit_by_bit_under_their_own_names(
    influxdb_server: Server, influx: Influx, calls: list[Any], experiment: str
) -> None:
    run = f"run-{next(COUNTER)}"
    times = itertools.count(STARTED_NS, 7)
    lines: list[bytes] = []
    expected: Stored = {}
    for user_tags, metrics, rows in calls:
        tags: Tags = tuple({**user_tags, "experiment": experiment, "run": run}.items())
        stamped = [(next(times), *row) for row in rows]
        lines += points.encode_rows(points.metric_prefixes(tags, metrics), STARTED_NS, stamped, orjson.dumps)
        for time_ns, step, *values in stamped:
            for metric, value in zip(metrics, values, strict=True):
                key = frozenset({**dict(tags), "metric": metric}.items()), time_ns
                expected[key] = metric_fields(time_ns, step, value)

    influx.write(b"".join(lines))

    stored = read_back(influxdb_server, influx, "metrics", run)
    assert {key: exact(fields, ("value",)) for key, fields in stored.items()} == expected
    assert measurements_and_fields(influx) <= {("metrics", name) for name in ("value", "nonfinite", "step", "elapsed")}


@BATCHES
@given(
    params=st.dictionaries(accepted.names(), accepted.FINITE | accepted.texts(), min_size=1, max_size=40),
    experiment=accepted.names(),
)
def test_parameters_come_back_as_they_were_numbers_or_text(
    influxdb_server: Server, influx: Influx, params: dict[str, float | str], experiment: str
) -> None:
    run = f"run-{next(COUNTER)}"
    lines = [points.param_line(experiment, run, name, value, STARTED_NS) for name, value in params.items()]
    influx.write("\n".join(lines))

    expected: Stored = {}
    for name, value in params.items():
        tags = frozenset({"experiment": experiment, "run": run, "param": name}.items())
        stored: dict[str, Field] = {"text": visible(value)} if isinstance(value, str) else {"number": value}
        expected[tags, STARTED_NS] = exact(dict(stored), ("number",))
    found = read_back(influxdb_server, influx, "params", run)
    assert {key: exact(fields, ("number",)) for key, fields in found.items()} == expected
    assert measurements_and_fields(influx) <= {("params", "number"), ("params", "text")}


def visible(text: str) -> str:
    """How a text comes back: what breaks lines or cannot be sent stands there as its escape."""
    return points.parse_line(points.encode_line("m", [], {"text": text}, 0)).fields["text"]  # type: ignore[return-value]


@BATCHES
@given(
    events=st.lists(
        st.tuples(accepted.names(), accepted.texts(), accepted.texts(), accepted.INT64), min_size=1, max_size=30
    )
)
def test_events_come_back_with_their_texts_and_steps(
    influxdb_server: Server, influx: Influx, events: list[tuple[str, str, str, int]]
) -> None:
    run = f"run-{next(COUNTER)}"
    who = Identity("digits", run, None, (), "online", Path(), 1, STARTED_NS)
    lines, expected = [], {}
    for number, (kind, title, text, step) in enumerate(events):
        time_ns = STARTED_NS + number * 1_000_000
        lines.append(who.event_line(time_ns, kind, {"title": title, "text": text, "level": "info"}, step))
        tags = frozenset({"experiment": "digits", "run": run, "kind": kind}.items())
        fields = {"title": visible(title), "text": visible(text), "level": "info", "step": step, "count": 1}
        expected[tags, time_ns] = {**fields, "elapsed": number}
    influx.write("\n".join(lines))

    assert read_back(influxdb_server, influx, "events", run) == expected
    assert {measurement for measurement, _ in measurements_and_fields(influx)} == {"events"}


def measurements_and_fields(bucket: Influx) -> set[tuple[str, str]]:
    """Every (measurement, field) in the bucket: a forged point or field would add one."""
    answer = bucket.query("SHOW FIELD KEYS")["results"][0].get("series", [])
    return {(series["name"], field) for series in answer for field, _ in series["values"]}


@pytest.mark.parametrize("time_ns", [0, 1, 1_000_000_007, LATEST_NS])
def test_every_time_stamp_that_is_accepted_is_stored_to_the_nanosecond(influx: Influx, time_ns: int) -> None:
    influx.write(points.encode_line("events", [("run", "r")], {"count": 1}, time_ns))
    # Without a range the server asks no shard before 1970, and its own clock never counts here.
    rows = influx.rows(f'SELECT "count" FROM "events" WHERE time >= 0 AND time <= {LATEST_NS}')
    assert [(row["time"], row["count"]) for row in rows] == [(time_ns, 1)]


def test_the_longest_names_and_as_many_tags_as_are_accepted_fit_into_a_key(influx: Influx) -> None:
    longest = "🙂" * points.MAX_NAME_CHARS
    user = points.check_tags({f"tag{number}": longest for number in range(15)})
    own = {"experiment": longest, "run": "r" * 128, "model": longest, "dataset": longest, "rank": "1"}
    prefixes = points.metric_prefixes(tuple({**user, **own}.items()), [longest])
    influx.write(b"".join(points.encode_rows(prefixes, 0, [(STARTED_NS, 1, 0.5)], orjson.dumps)))
    assert [row["value"] for row in influx.rows('SELECT "value" FROM "metrics"')] == [0.5]


@pytest.mark.parametrize(
    "text",
    [
        'x" 1\nevents,kind=forged count=1i 2',
        'x",forged=1i,y="',
        "x\\",
        'x\\"',
        "\\\\\n",
        "# x\n",
        "\r\nevents count=1i",
    ],
)
def test_a_text_that_looks_like_line_protocol_stays_a_text(influx: Influx, text: str) -> None:
    line = points.param_line("e", "r", "p", text, STARTED_NS)
    influx.write("\n".join([line, points.param_line("e", "r", "q", text, STARTED_NS)]))
    rows = influx.rows('SELECT * FROM "params" GROUP BY *')
    assert [(row["param"], row["text"]) for row in rows] == [("p", visible(text)), ("q", visible(text))]
    assert measurements_and_fields(influx) == {("params", "text")}


@pytest.mark.parametrize(
    "name",
    ["a=b", "a,b=c", "a b", "a,forged=1 value=2", 'a"b', "x value=1i,step=2i 3", "#x", "a\\b", "\\a", "'\"", "日本"],
)
def test_a_name_that_looks_like_line_protocol_stays_a_name(influx: Influx, name: str) -> None:
    prefixes = points.metric_prefixes(((name, name), ("experiment", name), ("run", "r")), [name])
    influx.write(
        b"".join(points.encode_rows(prefixes, 0, [(STARTED_NS, 1, 0.5), (STARTED_NS + 1, 2, 0.25)], orjson.dumps))
    )
    series = influx.query('SELECT "value" FROM "metrics" GROUP BY *')["results"][0]["series"]
    assert [one["tags"] for one in series] == [{name: name, "experiment": name, "metric": name, "run": "r"}]
    assert [row[1] for row in series[0]["values"]] == [0.5, 0.25]
    assert measurements_and_fields(influx) == {("metrics", "value"), ("metrics", "step"), ("metrics", "elapsed")}
