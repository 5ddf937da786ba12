"""Ten million points into the void: what an outage of hours costs in memory (N1) and in warnings."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from metriclog import directory
from metriclog.settings import Settings
from metriclog.status import collect
from metriclog.transport import Transport
from tests.faults.loads import python

POINTS, METRICS = 10_000_000, 100
MOST_BYTES = 30 << 20

LOGS = r"""
    import json, re, threading, metriclog
    from pathlib import Path

    def memory():
        text = Path("/proc/self/status").read_text()
        found = dict(re.findall(r"^(VmRSS|RssAnon):\s+(\d+) kB", text, re.M))
        return {name: int(kilobytes) << 10 for name, kilobytes in found.items()}

    run = metriclog.init("faults", run_id="r")
    names = [f"layer{index}/norm" for index in range(METRICS)]
    run.log(dict.fromkeys(names, 0.5), 0)
    run.flush(1.0)  # the shipper imports what it needs, and finds nobody
    run._recorder.journal.sync()  # the next segment is laid by
    idle, most = memory(), {"VmRSS": 0, "RssAnon": 0}
    for step in range(1, POINTS // METRICS):
        run.log(dict.fromkeys(names, step / 7), step)
        if step % 10_000 == 0:
            most = {name: max(most[name], now) for name, now in memory().items()}
    print(json.dumps({"idle": idle, "most": most, "threads": threading.active_count()}))
    run.finish(timeout_s=0.0)
    print(json.dumps(run.stats()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_ten_million_points_against_a_dead_server_cost_no_memory_and_hardly_a_warning(tmp_path: Path) -> None:
    source = LOGS.replace("POINTS", str(POINTS)).replace("METRICS", str(METRICS))
    where = {"url": "http://127.0.0.1:1", "token": "t", "dir": str(tmp_path / "journal")}
    done = python(source, **where, free_floor_bytes="0", heartbeat_s="3600")
    assert done.returncode == 0, done.stderr
    sizes, stats = map(json.loads, done.stdout.splitlines())
    # Its own memory, and all of it, with what it has mapped of the journal.
    assert sizes["most"]["RssAnon"] - sizes["idle"]["RssAnon"] < MOST_BYTES, sizes
    assert sizes["most"]["VmRSS"] - sizes["idle"]["VmRSS"] < MOST_BYTES, sizes
    assert sizes["threads"] <= 4
    assert (stats["dropped"], stats["delivered"]) == (0, 0)
    assert stats["pending"] == stats["accepted"] > POINTS - METRICS
    warnings = re.findall(r"^metriclog: ", done.stderr, re.M)
    assert len(warnings) <= 2, "the trouble once, and what is left"
    settings = Settings(**where)  # type: ignore[arg-type]
    (state,) = collect(settings.dir, Transport(settings).target)
    assert state.pending == stats["pending"]
    assert len(directory.process_directories(settings.dir)) == 1
