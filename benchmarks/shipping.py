"""How fast metriclog drains a full journal into a real InfluxDB, beside the fastest anybody could post the same points.

    python benchmarks/shipping.py [--points 5000000]

In one run, on one InfluxDB that the benchmark starts (as the tests do), each part into a bucket of its own:
- ceiling: the same narrow points, encoded and compressed beforehand, posted by http.client over kept connections;
  every combination of batch size, connections and compression below is tried on a part of the points, and the best one
  is then run on all of them, before and after metriclog; the better of the two counts.
- metriclog: a journal of all points, ten metrics a call, drained as `metriclog sync` does. Read, decode, encode, roll
  up, compress, post, ack: everything. Its CPU time a point stands beside it. The roll-ups that it makes and posts with
  the points are a ninth more lines: they count in the second figure, lines a second, held against the ceiling.
- influxdb-client: its batching API, as its documentation shows it (Points, default batches), and with large batches of
  ready-made lines, on a part of the points.

Targets: metriclog >= 0.8 of the ceiling, and >= 4 times influxdb-client as documented. Exit code 1 if one is missed.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import orjson

import metriclog
from metriclog.background import ship_directory
from metriclog.directory import process_directories
from metriclog.points import encode_rows, metric_prefixes
from metriclog.sender import Control
from metriclog.transport import Transport

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.servers import influxdb
from tests.servers.api import Influx, Server

METRICS = tuple(f"train/metric_{index}" for index in range(10))
TAGS = (("experiment", "bench"), ("model", "mlp"), ("run", "mlp-lr0.1-k3f9q"))
TRIALS = [
    (lines, lanes, packed) for lines in (5_000, 10_000, 20_000) for lanes in (1, 2, 4) for packed in (False, True)
]
SHARE, LEAD = 0.8, 4.0


def values(points: int) -> Iterator[list[float]]:
    """Rows of ten values, seeded; 1,000 different ones."""
    rng = random.Random(0)
    rows = [[rng.random() for _ in METRICS] for _ in range(1000)]
    for index in range(points // len(METRICS)):
        yield rows[index % 1000]


def bodies(points: int, lines: int, packed: bool) -> list[bytes]:
    """The points as ready request bodies of `lines` lines."""
    prefixes = metric_prefixes(TAGS, METRICS)
    start_ns = time.time_ns()
    rows, made = [], []
    for step, row in enumerate(values(points)):
        rows.append((start_ns + step * 2048, step, *row))
        if len(rows) * len(METRICS) >= lines:
            made.append(b"".join(encode_rows(prefixes, start_ns, rows, orjson.dumps)))
            rows = []
    if rows:
        made.append(b"".join(encode_rows(prefixes, start_ns, rows, orjson.dumps)))
    return [gzip.compress(body, 1) for body in made] if packed else made


def post_all(server: Server, bucket: str, ready: list[bytes], lanes: int, packed: bool) -> float:
    """Seconds to post all bodies over `lanes` connections."""
    todo = iter(ready)
    lock = threading.Lock()
    path = "/api/v2/write?" + urlencode({"org": server.org, "bucket": bucket, "precision": "ns"})
    headers = {"Authorization": f"Token {server.token}"} | ({"Content-Encoding": "gzip"} if packed else {})

    def lane() -> None:
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc)
        while True:
            with lock:
                body = next(todo, None)
            if body is None:
                return
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            said = answer.read()
            if answer.status != 204:
                raise RuntimeError(f"{answer.status} {said[:200]!r}")

    threads = [threading.Thread(target=lane) for _ in range(lanes)]
    start_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start_s


def fresh_bucket(server: Server, name: str) -> Influx:
    """An empty bucket."""
    bucket = Influx(server, name)
    bucket.create_bucket()
    return bucket


def ceiling(server: Server, points: int, trial: tuple[int, int, bool], name: str) -> float:
    """Points a second of one way of posting."""
    lines, lanes, packed = trial
    bucket = fresh_bucket(server, name)
    ready = bodies(points, lines, packed)
    seconds = post_all(server, bucket.bucket, ready, lanes, packed)
    bucket.delete_bucket()
    return points / seconds


def drain(server: Server, points: int, folder: Path) -> tuple[float, float, float]:
    """(points a second, lines a second, µs of CPU a point) of metriclog draining a journal."""
    journal = metriclog.Settings.load(dir=folder, mode="offline", heartbeat_s=3600)
    run = metriclog.init("bench", model="mlp", settings=journal)
    for step, row in enumerate(values(points)):
        run.log(dict(zip(METRICS, row, strict=True)), step)
    run.finish()
    bucket = fresh_bucket(server, "metriclog-drain")
    settings = metriclog.Settings.load(
        dir=folder, url=server.url, token=server.token, org=server.org, bucket=bucket.bucket
    )
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    for path in process_directories(folder):
        ship_directory(path, Transport(settings), Control(), settings)
    seconds, cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
    stored = sum(row["value"] for row in bucket.rows('SELECT count("value") AS "value" FROM "metrics"'))
    if stored != points:
        raise RuntimeError(f"{points} points logged, {stored} on the server")
    counts = bucket.rows(
        'SELECT count("step") AS "lines" FROM /^metrics_/; SELECT count("count") AS "lines" FROM "summary"'
    )
    lines = points + sum(row["lines"] for row in counts)
    bucket.delete_bucket()
    return points / seconds, lines / seconds, cpu_s / points * 1e6


def client(server: Server, points: int, tuned: bool) -> float:
    """Points a second of influxdb-client's batching API: Points and its defaults, or large batches of ready lines."""
    from influxdb_client import InfluxDBClient, Point, WriteOptions

    bucket = fresh_bucket(server, f"client-{tuned}")
    lines = b"".join(bodies(points, 20_000, packed=False)).decode().splitlines() if tuned else []
    options = WriteOptions(batch_size=10_000) if tuned else WriteOptions()
    start_s, start_ns = time.perf_counter(), time.time_ns()
    with (
        InfluxDBClient(server.url, token=server.token, org=server.org, timeout=60_000) as connection,
        connection.write_api(write_options=options) as api,
    ):
        for line in lines:
            api.write(bucket.bucket, record=line)
        for step, row in enumerate([] if tuned else values(points)):
            for name, value in zip(METRICS, row, strict=True):
                point = Point("metrics").tag("experiment", "bench").tag("run", "mlp-lr0.1-k3f9q").tag("model", "mlp")
                point = point.tag("metric", name).field("value", value).field("step", step).field("elapsed", step)
                api.write(bucket.bucket, record=point.time(start_ns + step * 2048))
    seconds = time.perf_counter() - start_s
    bucket.delete_bucket()
    return points / seconds


def main() -> None:
    """Run all parts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--points", type=int, default=5_000_000, help="points in the journal")
    points = parser.parse_args().points
    source = influxdb.find_own(print)
    if isinstance(source, influxdb.Missing):
        sys.exit(source.reason)
    with influxdb.running(source) as instance, tempfile.TemporaryDirectory() as folder:
        server = instance.server
        trials = {trial: ceiling(server, points // 10, trial, f"trial-{index}") for index, trial in enumerate(TRIALS)}
        best = max(trials, key=lambda trial: trials[trial])
        before = ceiling(server, points, best, "before")
        ours, posted, cpu_us = drain(server, points, Path(folder))
        after = ceiling(server, points, best, "after")
        tuned, plain = client(server, points // 10, tuned=True), client(server, points // 20, tuned=False)
    top = max(before, after)
    way = f"{best[0]} lines, {best[1]} connections, {'gzip' if best[2] else 'plain'}"
    rows = [
        ("ceiling before", before, way),
        ("ceiling after", after, way),
        ("metriclog", ours, f"{ours / top:.2f} of the ceiling; {cpu_us:.2f} µs of its CPU a point, roll-ups included"),
        (
            "metriclog, lines",
            posted,
            f"{posted / top:.2f} of the ceiling (target >= {SHARE}): points and their roll-ups",
        ),
        ("influxdb-client, lines", tuned, f"10,000 ready-made lines a batch; metriclog is {ours / tuned:.1f} x"),
        ("influxdb-client, Points", plain, f"as documented; metriclog is {ours / plain:.1f} x (target >= {LEAD})"),
    ]
    print(f"{'part':24} {'points/s':>10}")
    for name, speed, words in rows:
        print(f"{name:24} {speed:>10,.0f}   {words}")
    met = posted / top >= SHARE and ours / plain >= LEAD
    print("targets met" if met else "a target was MISSED")
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
