"""A real Prometheus and Alertmanager beside real training: who is paged, for what, and who never is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.prometheus import trainer
from tests.servers import prometheus
from tests.servers.prometheus import ROOT, Prometheus, wait_until
from tests.servers.scripted import ScriptedServer, says, serving

# What is to be waited for, in seconds instead of minutes.
RECENT_S = 20
HURRIED = {
    "prometheus.yml": [("_interval: 5s", "_interval: 1s"), ("scrape_timeout: 4s", "scrape_timeout: 1s")],
    "metriclog.rules.yml": [
        ("interval: 5s", "interval: 1s"),
        ("interval: 15s", "interval: 1s"),
        ("15m", f"{RECENT_S}s"),
        ("time() - 900", f"time() - {RECENT_S}"),
        ("(up[1m])", "(up[3s])"),
    ],
    "alertmanager.yml": [("group_wait: 5s", "group_wait: 1s"), ("group_interval: 1m", "group_interval: 1s")],
}
PAGED_S = 60.0  # far more than it takes, for the machine may be busy

Json = dict[str, Any]


@dataclass(frozen=True)
class Watched:
    """A Prometheus with an Alertmanager, the webhook that gets its pages, and where jobs keep their journals."""

    prometheus: Prometheus
    webhook: ScriptedServer
    journals: Path

    @contextmanager
    def job(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A training process that Prometheus will find."""
        settings = {"PORT": "0", "SD_DIR": str(self.prometheus.targets), "LINGER_S": "30"}
        environment = {f"METRICLOG_PROMETHEUS_{name}": value for name, value in settings.items()}
        environment |= {name: value for name, value in os.environ.items() if not name.startswith("METRICLOG_")}
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.prometheus.trainer", *arguments],
            cwd=ROOT, env={**environment, "METRICLOG_DIR": str(self.journals)}, stdin=subprocess.PIPE, text=True,
        )  # fmt: skip
        with process:
            try:
                yield process
            finally:
                process.kill()

    def pages(self, status: str, **labels: str) -> list[Json]:
        """The messages so far with this status for a group of these labels."""
        said = [json.loads(body) for _, _, _, body in self.webhook.requests]
        return [one for one in said if one["status"] == status and labels.items() <= one["groupLabels"].items()]

    def wait(self, status: str, **labels: str) -> Json:
        """The first such message."""
        wait_until(
            lambda: bool(self.pages(status, **labels)),
            lambda: f"no {status} {labels} in {self.webhook.requests}; firing: {self.prometheus.firing()}",
            PAGED_S,
        )
        return self.pages(status, **labels)[0]


@pytest.fixture(scope="module")
def watched(programs: prometheus.Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("prometheus")
    with (
        serving(says(200)) as webhook,
        prometheus.running(programs, folder, HURRIED, webhook.url) as started,
    ):
        yield Watched(started, webhook, folder / "journals")


@pytest.mark.timeout(300)
def test_the_run_that_diverged_is_paged_after_its_process_has_ended_and_the_others_are_not(watched: Watched) -> None:
    with watched.job("sweep") as process:
        assert process.wait(60.0) == 0, "the end of the process waited for a scrape, and no longer"
        page = watched.wait("firing", run=trainer.DIVERGES, alertname="MetriclogNonFinite")
    assert page["groupLabels"] == {
        "alertname": "MetriclogNonFinite",
        "experiment": trainer.EXPERIMENT,
        "run": trainer.DIVERGES,
    }
    (alert,) = page["alerts"]
    assert alert["labels"].items() >= {"metric": "train/loss", "severity": "critical", "component": "training"}.items()
    assert f"and is NaN at step {trainer.STEPS - 1}" in alert["annotations"]["summary"]
    assert "metriclog-run?var-experiment=regression&var-run=lr9&" in alert["annotations"]["dashboard"]

    watched.wait("resolved", run=trainer.DIVERGES, alertname="MetriclogNonFinite")
    about = {json.loads(body)["groupLabels"]["run"] for _, _, _, body in watched.webhook.requests}
    assert about & trainer.RATES.keys() == {trainer.DIVERGES}


@pytest.mark.timeout(300)
def test_a_killed_run_is_dead_until_it_is_resumed_and_is_silent_once_it_has_finished(watched: Watched) -> None:
    with watched.job("steady", "night-shift") as process:
        watched.prometheus.wait('metriclog_run_running{run="night-shift"} == 1')
        process.kill()
        page = watched.wait("firing", run="night-shift")
    assert page["groupLabels"]["alertname"] == "MetriclogDead"
    assert "Run night-shift has stopped without a word at step " in page["alerts"][0]["annotations"]["summary"]

    with watched.job("steady", "night-shift") as process:
        watched.wait("resolved", run="night-shift", alertname="MetriclogDead")
        process.communicate("\n", timeout=60.0)
        assert process.returncode == 0
    watched.prometheus.wait('run:metriclog_finished:last{run="night-shift"} == 1')
    # Long enough for what would be wrong to be told.
    watched.prometheus.wait(f'absent_over_time(up{{instance=~".+:{process.pid}"}}[8s])')
    assert not [labels for labels in watched.prometheus.firing() if labels["run"] == "night-shift"]
    assert len(watched.pages("firing", run="night-shift")) == 1


@pytest.mark.timeout(300)
def test_every_rule_was_evaluated_without_an_error(watched: Watched) -> None:
    groups = watched.prometheus.call("rules")["groups"]
    assert [rule["name"] for group in groups for rule in group["rules"] if rule["health"] != "ok"] == []
