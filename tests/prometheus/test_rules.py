"""The rules of provisioning/prometheus by promtool: silent before, firing after, in exactly these words."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.servers.prometheus import PROVISIONING, ROOT, Programs, replace

HERE = Path(__file__).resolve().parent
RULES = PROVISIONING / "metriclog.rules.yml"
TESTS = ["training.test.yml", "life.test.yml"]
GROUPS = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
ALERTS = [rule for group in GROUPS for rule in group["rules"] if "alert" in rule]

every_alert = pytest.mark.parametrize("alert", ALERTS, ids=[alert["alert"] for alert in ALERTS])


def promtool(programs: Programs, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([programs.promtool, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def test_prometheus_takes_its_configuration(programs: Programs, tmp_path: Path) -> None:
    """With a target in the folder, since promtool warns of a folder without."""
    shutil.copytree(PROVISIONING, tmp_path / "prometheus")
    (tmp_path / "prometheus" / "targets" / "job.json").write_text('[{"targets": ["127.0.0.1:1"]}]')
    checked = promtool(programs, "check", "config", tmp_path / "prometheus" / "prometheus.yml")
    assert checked.returncode == 0 and "WARNING" not in checked.stdout, checked.stdout + checked.stderr


def test_prometheus_takes_the_rules(programs: Programs) -> None:
    checked = promtool(programs, "check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("name", TESTS)
def test_the_rules_fire_and_stay_silent_as_written_down(name: str, programs: Programs) -> None:
    tested = promtool(programs, "test", "rules", HERE / name)
    assert tested.returncode == 0, tested.stdout + tested.stderr


CHANGES = {
    "a run may be silent for longer": ("life.test.yml", "min > 600", "min > 660"),
    "a run may be silent for less long": ("life.test.yml", "min > 600", "min > 540"),
    "a slow logger is given less": ("life.test.yml", "<= 5 *", "<= 4 *"),
    "a target may be away for longer": ("life.test.yml", "(up[1m])", "(up[2m])"),
    "a target may be away for less long": ("life.test.yml", "(up[1m])", "(up[30s])"),
    "a dead run is forgotten soon": ("life.test.yml", "last[6h]) == 1)", "last[4m]) == 1)"),
    "a finished run is forgotten": ("life.test.yml", "finished:last[6h]) == 1", "finished:last[6h]) == 7"),
    "one lost point is no news": ("life.test.yml", "quarantined:increase15m > 0", "quarantined:increase15m > 40"),
    "a few NaNs are none": ("training.test.yml", "nonfinite:increase15m > 0", "nonfinite:increase15m > 3"),
    "a NaN is news for longer": ("training.test.yml", "offset 15m", "offset 30m"),
    "a loss may give back more": ("training.test.yml", "ratio > 0.5", "ratio > 0.75"),
    "a loss may give back less": ("training.test.yml", "ratio > 0.5", "ratio > 0.25"),
    "a loss is paged sooner": ("training.test.yml", "for: 2m", "for: 1m"),
    "a loss is paged later": ("training.test.yml", "for: 2m", "for: 5m"),
    "a warning is passed on": ("training.test.yml", '{level="critical"}', "{}"),
    "over-fitting is divergence": ("training.test.yml", "val|valid|validation|eval|", ""),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_rule_that_was_changed_fails(change: str, programs: Programs, tmp_path: Path) -> None:
    """Else the tests of the rules would test nothing."""
    name, old, new = CHANGES[change]
    for source in (RULES, HERE / name):
        copy = tmp_path / source.relative_to(ROOT)
        copy.parent.mkdir(parents=True)
        shutil.copy(source, copy)
    replace(tmp_path / RULES.relative_to(ROOT), [(old, new)])
    tested = promtool(programs, "test", "rules", tmp_path / "tests" / "prometheus" / name)
    assert tested.returncode == 1 and "FAILED" in tested.stdout + tested.stderr, tested.stdout + tested.stderr


@every_alert
def test_an_alert_says_how_bad_it_is_of_what_it_is_and_where_to_look(alert: dict[str, dict[str, str]]) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["labels"]["component"] in ("training", "delivery")
    assert alert["annotations"].keys() == {"summary", "description", "dashboard", "runbook"}
    assert "$labels.run" in alert["annotations"]["summary"]
    assert re.match(r"http://127\.0\.0\.1:3000/d/metriclog-(run|delivery)\?", alert["annotations"]["dashboard"])


@every_alert
def test_an_alert_has_a_heading_in_the_runbook(alert: dict[str, dict[str, str]]) -> None:
    path, anchor = alert["annotations"]["runbook"].split("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(encoding="utf-8"), re.M)
    assert anchor in {heading.lower().replace(" ", "-") for heading in headings}
