"""alertmanager.sh: who is told, by the address of the webhook; the address stays private and is taken as it is."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.servers.prometheus import PROVISIONING

SLACK = "https://hooks.slack.com/services/T0/B0/x"
DISCORD = "https://discord.com/api/webhooks/1/x"
OTHER = "http://127.0.0.1:9/page?a=1&b=%20&c=~2"


def started(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """What the script starts, with an Alertmanager that says how it was started."""
    program = folder / "bin" / "alertmanager"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    (folder / "tmp").mkdir()
    env = {"PATH": f"{program.parent}:{os.environ['PATH']}", "TMPDIR": str(folder / "tmp"), **settings}
    command = ["sh", str(PROVISIONING / "alertmanager.sh"), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("url", "kind", "receiver", "key"),
    [
        (OTHER, "", "webhook", "url"),
        (OTHER, "auto", "webhook", "url"),
        (SLACK, "auto", "slack", "api_url"),
        (DISCORD, "", "discord", "webhook_url"),
        (OTHER, "slack", "slack", "api_url"),
        (SLACK, "webhook", "webhook", "url"),
    ],
)
def test_the_receiver_is_that_of_the_address_unless_the_type_says_otherwise(
    url: str, kind: str, receiver: str, key: str, tmp_path: Path
) -> None:
    settings = {"METRICLOG_ALERT_TYPE": kind} if kind else {}
    done = started(tmp_path, "--storage.path=x y", METRICLOG_ALERT_WEBHOOK=url, **settings)
    assert (done.returncode, done.stderr) == (0, "")
    config, *more = done.stdout.splitlines()
    assert more == ["--storage.path=x y"]
    path = Path(config.removeprefix("--config.file="))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    made = yaml.safe_load(path.read_text())
    assert made["route"]["receiver"] == receiver
    (one,) = (found for found in made["receivers"] if found["name"] == receiver)
    ((chosen,),) = (value for name, value in one.items() if name != "name")
    assert chosen[key] == url


def test_without_an_address_nobody_is_told_and_it_starts_all_the_same(tmp_path: Path) -> None:
    done = started(tmp_path, METRICLOG_ALERT_WEBHOOK="")
    path = Path(done.stdout.strip().removeprefix("--config.file="))
    assert yaml.safe_load(path.read_text())["route"]["receiver"] == "nobody"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"METRICLOG_ALERT_WEBHOOK": 'http://x/"\n- y'}, "METRICLOG_ALERT_WEBHOOK holds a character"),
        (
            {"METRICLOG_ALERT_WEBHOOK": OTHER, "METRICLOG_ALERT_TYPE": "pager"},
            "must be auto, webhook, slack or discord",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(settings: dict[str, str], words: str, tmp_path: Path) -> None:
    done = started(tmp_path, **settings)
    assert done.returncode == 1 and done.stdout == ""
    assert words in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.skipif(
    shutil.which("amtool") is None, reason="no amtool: Alertmanager's own check of the file is left out"
)
@pytest.mark.parametrize("url", ["", OTHER, SLACK, DISCORD])
def test_alertmanager_takes_what_results(url: str, tmp_path: Path) -> None:
    done = started(tmp_path, METRICLOG_ALERT_WEBHOOK=url)
    path = done.stdout.strip().removeprefix("--config.file=")
    checked = subprocess.run(["amtool", "check-config", path], capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_run_is_one_page_a_trouble_whatever_the_number_of_metrics_and_ranks() -> None:
    config = yaml.safe_load((PROVISIONING / "alertmanager.yml").read_text(encoding="utf-8"))
    assert set(config["route"]["group_by"]) == {"experiment", "run", "alertname"}
    assert all(set(rule["equal"]) == {"experiment", "run"} for rule in config["inhibit_rules"])
