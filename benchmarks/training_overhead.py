"""What logging ten metrics a step costs a training loop of 1 ms steps: server up, server down, server dripping.

    python benchmarks/training_overhead.py [--quick]

A numpy loop (matrix products sized to about 1 ms a step, on one core) runs in turns without and with logging, in slices
of five seconds, so that a slow moment of the machine hits both. The wait for the server to have everything, at the end
of a slice that logged, counts as its time: so all of the shipping is in it. "Up" is a sink on loopback that answers 204
at once, in a process of its own; "down" a closed port; "dripping" a server that sends one byte of its answer a second.
A slice is compared with the two beside it; the median counts, the quartiles tell how noisy the machine is. Target: at
most 2 % of the step time in all three; p99 and maximum of a call stand beside it.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # two would share this machine's two cores with everything else

import numpy as np

import metriclog

STEP_MS, TARGET = 1.0, 0.02
SLICE_STEPS = 5000
METRICS = [f"train/metric_{index}" for index in range(10)]
SERVER = """
import socket, sys, threading, time
dripping = sys.argv[1] == "dripping"
def serve(peer):
    data = b""
    while True:
        while b"\\r\\n\\r\\n" not in data:
            chunk = peer.recv(1 << 16)
            if not chunk: return
            data += chunk
        head, _, body = data.partition(b"\\r\\n\\r\\n")
        length = next(int(l.split(b":")[1]) for l in head.split(b"\\r\\n") if l.lower().startswith(b"content-length"))
        while len(body) < length: body += peer.recv(1 << 16)
        data = body[length:]
        answer = b"HTTP/1.1 204 No Content\\r\\nX-Influxdb-Version: sink\\r\\n\\r\\n"
        for at in range(len(answer)) if dripping else [0]:
            peer.sendall(answer[at:at + 1] if dripping else answer)
            if dripping: time.sleep(1)
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


def make_step() -> Callable[[], float]:
    """A training step of about STEP_MS: products of matrices, repeated as often as that takes here."""
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(96, 96)), rng.normal(size=(96, 96))

    def products(count: int) -> float:
        for _ in range(count):
            out = np.tanh(left @ right)
        return float(out[0, 0])

    products(50)
    start_s = time.perf_counter()
    products(200)
    count = max(1, round(STEP_MS / ((time.perf_counter() - start_s) * 1000 / 200)))
    return lambda: products(count)


def time_slice(step: Callable[[], float], steps: int, log: Callable[[dict[str, float]], object] | None) -> list[float]:
    """Seconds of each step; the calls' own seconds are appended to `CALLS`."""
    times = []
    for _ in range(steps):
        start_s = time.perf_counter()
        loss = step()
        if log is not None:
            before_s = time.perf_counter()
            log(dict.fromkeys(METRICS, loss))
            CALLS.append(time.perf_counter() - before_s)
        times.append(time.perf_counter() - start_s)
    return times


CALLS: list[float] = []


def measure(port: int, slices: int, ships: bool) -> tuple[list[float], list[float]]:
    """Overheads as shares of the step, ascending, and calls in µs, ascending, with a server on this port."""
    steps = SLICE_STEPS
    with tempfile.TemporaryDirectory() as folder:
        settings = metriclog.Settings.load(
            dir=Path(folder),
            url=f"http://127.0.0.1:{port}",
            token="none",
            exit_timeout_s=0.5,
        )
        run = metriclog.init("overhead", settings=settings)
        step = make_step()
        run.log(dict.fromkeys(METRICS, 0.0))
        run.flush(2.0)  # the first post imports influxdb-client: half a second of CPU, once, in the background
        time_slice(step, steps, run.log)
        CALLS.clear()
        gc.collect()
        ratios = []
        before = sum(time_slice(step, steps, None))
        for _ in range(slices):
            logged = sum(time_slice(step, steps, run.log))
            begin_s = time.perf_counter()
            run.flush(2.0 if ships else 0.0)  # what is left to ship must not burden the next slice
            logged += time.perf_counter() - begin_s
            after = sum(time_slice(step, steps, None))
            ratios.append(logged / ((before + after) / 2) - 1)
            before = after
        run.finish()
    return sorted(ratios), [call_s * 1e6 for call_s in sorted(CALLS)]


def main() -> None:
    """Run all three and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer slices")
    slices = 4 if parser.parse_args().quick else 12
    met = True
    heads = f"{'server':10} {'overhead':>10} {'quartiles':>18} {'call p50 µs':>12} {'p99 µs':>8} {'max µs':>8}"
    print(f"{heads}   target: <= {TARGET:.0%}")
    for kind in ("up", "down", "dripping"):
        server = subprocess.Popen([sys.executable, "-c", SERVER, kind], stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        port = int(server.stdout.readline())
        if kind == "down":
            server.kill()
        ratios, calls = measure(port, slices, kind == "up")
        server.kill()
        server.wait()
        low, overhead, high = statistics.quantiles(ratios, n=4)
        met = met and overhead <= TARGET
        p50, p99 = calls[len(calls) // 2], calls[int(len(calls) * 0.99)]
        spread = f"{low:.2%} {high:.2%}"
        print(f"{kind:10} {overhead:>10.2%} {spread:>18} {p50:>12.1f} {p99:>8.0f} {calls[-1]:>8.0f}")
    print("target met" if met else "the target was MISSED")
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
