"""What one log() call costs the training thread, beside writing the same lines to a file, in one run.

    python benchmarks/log_call.py [--quick]

Contenders, all given the same names and values, interleaved in rounds so that a slow moment hits all of them:
- file.write: format the line-protocol lines and write them to a file opened with buffering=0: like metriclog's, such
  a line survives kill -9 once the call returned. This is the yardstick of the targets.
- file.write, buffered: the same into Python's buffer; kill -9 loses what is in it. Shown for honesty.
- metriclog: run.log(), offline, journal in a temporary directory.
- influxdb-client: the batching API with Points, against a sink in another process that answers 204.

Hot: call after call. Cold: 1 ms of other work between calls, as in a training loop. Times are medians and p99 in µs.
Exit code 1 if a target is missed: 1 metric <= 1.2 x file.write, 10 metrics <= 0.5 x, 1,000 metrics <= 0.12 x (hot).
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import metriclog

SINK = """
import http.server
class Sink(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204); self.end_headers()
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sink)
print(server.server_port, flush=True)
server.serve_forever()
"""
TARGETS = {1: 1.2, 10: 0.5, 1000: 0.12}
NAMES = ("file.write", "file.write, buffered", "metriclog", "influxdb-client")

Call = Callable[[dict[str, float], int], object]


def text_writer(path: Path, buffering: int) -> Call:
    """Format the lines metriclog would ship and write them."""
    started_ns = time.time_ns()
    file = open(path, "wb", buffering=buffering)  # noqa: SIM115 - lives as long as the benchmark
    starts: dict[str, str] = {}

    def write(metrics: dict[str, float], step: int) -> None:
        now_ns = time.time_ns()
        end = f",step={step}i,elapsed={(now_ns - started_ns) // 1_000_000}i {now_ns}\n"
        for name in metrics:
            if name not in starts:
                starts[name] = f"metrics,experiment=bench,metric={name},model=mlp,run=mlp-lr0.1-k3f9q value="
        file.write("".join([f"{starts[name]}{value!r}{end}" for name, value in metrics.items()]).encode())

    return write


def client_writer(port: int) -> Call:
    """influxdb-client as its documentation shows it: batching, one Point a metric."""
    from influxdb_client import InfluxDBClient, Point

    api = InfluxDBClient(f"http://127.0.0.1:{port}", token="none", org="none").write_api()

    def write(metrics: dict[str, float], step: int) -> None:
        now_ns = time.time_ns()
        points = [
            Point("metrics")
            .tag("experiment", "bench")
            .tag("run", "mlp-lr0.1-k3f9q")
            .tag("model", "mlp")
            .tag("metric", name)
            .field("value", value)
            .field("step", step)
            .time(now_ns)
            for name, value in metrics.items()
        ]
        api.write("bucket", record=points)

    return write


def measure(call: Call, width: int, calls: int, cold: bool) -> list[float]:
    """Times of `calls` calls in µs."""
    names = ["train/loss"] if width == 1 else [f"train/metric_{index}" for index in range(width)]
    rows = [{name: random.random() for name in names} for _ in range(min(calls, 200))]
    call(rows[0], 0)
    times = []
    for step in range(1, calls + 1):
        metrics = dict(rows[step % len(rows)])
        if cold:
            until_ns = time.perf_counter_ns() + 1_000_000
            while time.perf_counter_ns() < until_ns:
                sum(metrics.values())
        start_ns = time.perf_counter_ns()
        call(metrics, step)
        times.append((time.perf_counter_ns() - start_ns) / 1000)
    return times


def table(contenders: dict[str, Call], quick: bool) -> bool:
    """Print the table; whether all targets are met."""
    met = True
    print(f"{'metrics':>8} {'':5} " + " ".join(f"{name:>24}" for name in NAMES) + f" {'metriclog/file.write':>22}")
    print(f"{'':8} {'':5} " + " ".join(f"{'p50 (p99) µs':>24}" for _ in NAMES))
    for width in TARGETS:
        for cold in (False, True):
            rounds = 3 if quick else 7
            calls = (4000 if width < 1000 else 400) // (20 if cold else 1)
            times: dict[str, list[float]] = {name: [] for name in NAMES}
            ratios = []
            for _ in range(rounds):
                for name in NAMES:
                    count = calls if name != "influxdb-client" else max(calls // 20, 10)
                    times[name].append(statistics.median(fresh := measure(contenders[name], width, count, cold)))
                    times[name + " p99"] = [*times.get(name + " p99", []), sorted(fresh)[int(len(fresh) * 0.99)]]
                ratios.append(times["metriclog"][-1] / times["file.write"][-1])
            cells = [f"{statistics.median(times[n]):.1f} ({statistics.median(times[n + ' p99']):.0f})" for n in NAMES]
            ratio = statistics.median(ratios)
            goal = "" if cold else f" (<= {TARGETS[width]})"
            met = met and (cold or ratio <= TARGETS[width])
            print(
                f"{width:8} {'cold' if cold else 'hot':5} "
                + " ".join(f"{c:>24}" for c in cells)
                + f" {ratio:>11.2f}{goal}"
            )
    return met


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    quick = parser.parse_args().quick
    sink = subprocess.Popen([sys.executable, "-c", SINK], stdout=subprocess.PIPE, text=True)
    try:
        assert sink.stdout is not None
        port = int(sink.stdout.readline())
        with tempfile.TemporaryDirectory() as folder:
            settings = metriclog.Settings.load(dir=Path(folder), mode="offline")
            run = metriclog.init("bench", model="mlp", settings=settings)
            contenders: dict[str, Call] = {
                "file.write": text_writer(Path(folder) / "lines", 0),
                "file.write, buffered": text_writer(Path(folder) / "buffered", 1 << 16),
                "metriclog": run.log,
                "influxdb-client": client_writer(port),
            }
            met = table(contenders, quick)
            run.finish()
    finally:
        sink.kill()
        sink.wait()
    print("all targets met" if met else "a target was MISSED")
    sys.stdout.flush()
    import os

    os._exit(0 if met else 1)  # influxdb-client's batching threads would retry into the closed sink for minutes


if __name__ == "__main__":
    main()
