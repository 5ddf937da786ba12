"""docker-compose.yml, .env.example and provisioning/: they fit each other, and nothing is open to a network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import metriclog
from metriclog.grafana import dashboards, live, variables

ROOT = Path(__file__).resolve().parents[1]
PROVISIONING = ROOT / "provisioning" / "grafana"
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
EXAMPLE_TEXT = (ROOT / ".env.example").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DATASOURCE = yaml.safe_load((PROVISIONING / "datasources" / "metriclog.yaml").read_text())["datasources"][0]
PROVIDER = yaml.safe_load((PROVISIONING / "dashboards" / "metriclog.yaml").read_text())["providers"][0]
NOTIFICATIONS_FILE = ROOT / "provisioning" / "compose" / "notifications.yaml"
NOTIFICATIONS = yaml.safe_load(NOTIFICATIONS_FILE.read_text(encoding="utf-8"))
# The line of .env.example that makes secrets, without the comment sign.
SECRETS_COMMAND = next(line.removeprefix("#").strip() for line in EXAMPLE_TEXT.splitlines() if "umask" in line)

every_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)


def settings_of(text: str) -> dict[str, str]:
    """The variables that an .env file sets."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def mounts(service: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """Each mount as (source, target, whether it is read-only)."""
    parts = [mount.split(":") for mount in service["volumes"]]
    return [(part[0], part[1], part[2:] == ["ro"]) for part in parts]


# --- Nothing is open, nothing is empty ------------------------------------------------------------------------------


@every_service
def test_ports_are_bound_to_loopback(service: dict[str, Any]) -> None:
    """In the network of the machine itself there are no ports to bind: there the program says where it listens."""
    if service.get("network_mode") == "host":
        places = [part.partition("=")[2] for part in service["command"] if "listen-address" in part]
        assert {place.rpartition(":")[0] for place in places if place} <= {"127.0.0.1", "${DOCKER_GATEWAY:-172.17.0.1}"}
        assert any(place.startswith("127.0.0.1:") for place in places)
        return
    assert service["ports"]
    for port in service["ports"]:
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)


def test_no_secret_is_written_in_the_compose_file() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|TOKEN|WEBHOOK", name):
                assert value.startswith("${"), f"{name} must come from .env"


def test_what_must_not_be_empty_is_refused_with_what_to_do() -> None:
    """With `:?` compose starts nothing; with `?` alone an empty value would pass."""
    required = re.findall(r"\$\{(\w+):\?([^}]*)\}", COMPOSE_TEXT)
    assert {name for name, _ in required} == {"METRICLOG_TOKEN", "INFLUXDB_PASSWORD", "GRAFANA_PASSWORD"}
    assert {message for _, message in required} == {"copy .env.example to .env first"}
    assert not re.search(r"\$\{\w+\?", COMPOSE_TEXT)


def test_who_has_not_signed_in_sees_nothing_unless_that_is_asked_for() -> None:
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "${GRAFANA_ANONYMOUS:-false}"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_SECURITY_COOKIE_SAMESITE"] == "strict"


def test_the_example_sets_every_variable_of_the_compose_file_and_no_other_but_the_address() -> None:
    asked_for = set(re.findall(r"\$\{(\w+)", COMPOSE_TEXT))
    assert settings_of(EXAMPLE_TEXT).keys() == asked_for | {"METRICLOG_URL"}


def test_the_example_works_as_it_stands() -> None:
    example = settings_of(EXAMPLE_TEXT)
    assert example["METRICLOG_URL"] == "http://" + SERVICES["influxdb"]["ports"][0].rpartition(":")[0]
    for name in ("METRICLOG_TOKEN", "INFLUXDB_PASSWORD", "GRAFANA_PASSWORD"):
        assert 8 <= len(example[name]) <= 72, "InfluxDB takes passwords of 8 to 72 characters"


@pytest.mark.skipif(os.name != "posix", reason="a shell line for POSIX")
def test_the_line_that_makes_secrets_replaces_each_by_one_of_its_own(tmp_path: Path) -> None:
    (tmp_path / ".env.example").write_text(EXAMPLE_TEXT)
    command = SECRETS_COMMAND.replace("python3", sys.executable)
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, timeout=60)

    made, example = settings_of((tmp_path / ".env").read_text()), settings_of(EXAMPLE_TEXT)
    changed = {name for name in example if made[name] != example[name]}
    assert changed == {name for name, value in example.items() if value.startswith("change-me")}
    assert len({made[name] for name in changed}) == len(changed) == 3
    assert all(re.fullmatch(r"[0-9a-f]{48}", made[name]) for name in changed)
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0


# --- The compose file fits the repository ---------------------------------------------------------------------------


@every_service
def test_images_are_pinned_to_an_exact_release(service: dict[str, Any]) -> None:
    assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", service["image"])


def test_influxdb_is_the_version_that_the_tests_run_against() -> None:
    pinned = re.search(r"influxdata/influxdb/v2 v(\S+)", (ROOT / "tests" / "servers" / "go.mod").read_text())
    assert pinned and SERVICES["influxdb"]["image"] == f"influxdb:{pinned[1]}"


@every_service
def test_every_service_says_whether_it_is_healthy(service: dict[str, Any]) -> None:
    assert service["healthcheck"]["test"][0] == "CMD"
    assert any(part.startswith("http://127.0.0.1:") for part in service["healthcheck"]["test"])


def test_grafana_waits_for_influxdb() -> None:
    assert SERVICES["grafana"]["depends_on"] == {"influxdb": {"condition": "service_healthy"}}


@every_service
def test_mounts_are_named_volumes_or_existing_files_and_folders_that_cannot_be_written(service: dict[str, Any]) -> None:
    for source, _, read_only in mounts(service):
        if source.startswith("./"):
            assert (ROOT / source).exists() and read_only
        else:
            assert source in COMPOSE["volumes"]


def test_prometheus_and_its_alertmanager_are_only_there_where_they_are_asked_for() -> None:
    profiles = {name: service.get("profiles") for name, service in SERVICES.items()}
    assert profiles == {"influxdb": None, "grafana": None, "prometheus": ["prometheus"], "alertmanager": ["prometheus"]}


def test_prometheus_finds_its_rules_its_targets_and_alertmanager_where_compose_puts_them() -> None:
    folder = ROOT / "provisioning" / "prometheus"
    config = yaml.safe_load((folder / "prometheus.yml").read_text(encoding="utf-8"))
    assert ("./provisioning/prometheus", "/etc/prometheus", True) in mounts(SERVICES["prometheus"])
    assert "--config.file=/etc/prometheus/prometheus.yml" in SERVICES["prometheus"]["command"]
    assert all((folder / name).is_file() for name in config["rule_files"])
    (alertmanagers,) = config["alerting"]["alertmanagers"][0]["static_configs"]
    (target,) = alertmanagers["targets"]
    assert f"--web.listen-address={target}" in SERVICES["alertmanager"]["command"]
    (job,) = config["scrape_configs"]
    (files,) = job["file_sd_configs"][0]["files"]
    announced = re.search(r"METRICLOG_PROMETHEUS_SD_DIR=\$PWD/(\S+)", EXAMPLE_TEXT)
    assert announced and ROOT / announced[1] == (folder / files).parent and (folder / files).parent.is_dir()


def test_grafana_reaches_prometheus_where_it_listens_for_containers() -> None:
    url = SERVICES["grafana"]["environment"]["METRICLOG_PROMETHEUS_URL"]
    assert url == "http://host.docker.internal:9090"
    assert "host.docker.internal:host-gateway" in SERVICES["grafana"]["extra_hosts"]
    assert "--web.listen-address=${DOCKER_GATEWAY:-172.17.0.1}:9090" in SERVICES["prometheus"]["command"]


def test_every_provisioning_folder_is_mounted_where_grafana_looks() -> None:
    mounted = {(source, target) for source, target, _ in mounts(SERVICES["grafana"])}
    for folder in PROVISIONING.iterdir():
        ours, theirs = f"provisioning/grafana/{folder.name}", f"/etc/grafana/provisioning/{folder.name}"
        for name in [f"/{path.name}" for path in folder.iterdir()] if folder.name == "alerting" else [""]:
            assert (f"./{ours}{name}", f"{theirs}{name}") in mounted


def test_only_the_grafana_of_the_compose_file_gets_notification_policies() -> None:
    """They replace all that a Grafana has, so they lie apart from what can be mounted into any."""
    mounted = {source: target for source, target, _ in mounts(SERVICES["grafana"])}
    assert mounted["./provisioning/compose/notifications.yaml"].startswith("/etc/grafana/provisioning/alerting/")
    for path in PROVISIONING.rglob("*.yaml"):
        assert not {"policies", "contactPoints", "resetPolicies"} & yaml.safe_load(path.read_text()).keys(), path


def test_without_a_webhook_the_address_is_one_that_says_what_is_missing() -> None:
    """With an empty one Grafana would not start."""
    address = SERVICES["grafana"]["environment"]["METRICLOG_ALERT_WEBHOOK"]
    assert re.fullmatch(r"\$\{GRAFANA_ALERT_WEBHOOK:-http://127\.0\.0\.1:9/GRAFANA_ALERT_WEBHOOK-is-not-set\}", address)
    (receiver,) = NOTIFICATIONS["contactPoints"][0]["receivers"]
    assert receiver["settings"] == {"url": "$METRICLOG_ALERT_WEBHOOK"}
    assert receiver["type"] == "$METRICLOG_ALERT_TYPE"


def test_a_run_is_one_message_whatever_its_metrics_and_ranks() -> None:
    (policy,) = NOTIFICATIONS["policies"]
    assert policy["receiver"] == NOTIFICATIONS["contactPoints"][0]["name"]
    assert set(policy["group_by"]) == {"alertname", "experiment", "run"}


# --- Provisioning fits the compose file and the dashboards ----------------------------------------------------------


def test_every_variable_in_provisioning_is_given_to_grafana() -> None:
    # In the alert rules nothing is replaced: there a dollar is Grafana's own.
    files = [*(path for path in PROVISIONING.rglob("*.yaml") if path.parent.name != "alerting"), NOTIFICATIONS_FILE]
    texts = [path.read_text(encoding="utf-8") for path in files]
    code = "\n".join(line for text in texts for line in text.splitlines() if not line.lstrip().startswith("#"))
    used = set(re.findall(r"\$(\w+)", code))
    assert used
    assert used == {name for name in SERVICES["grafana"]["environment"] if not name.startswith("GF_")}


def test_the_data_source_is_the_one_that_the_dashboards_name() -> None:
    assert (DATASOURCE["uid"], DATASOURCE["name"]) == (variables.DATASOURCE_UID, variables.DATASOURCE_NAME)


def test_the_prometheus_data_source_is_the_one_that_live_names_and_its_rules_are_not_asked_for() -> None:
    """Where no Prometheus runs, Grafana would complain of rules that it cannot get."""
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert (source["uid"], source["name"]) == (live.PROMETHEUS_UID, live.PROMETHEUS_NAME)
    assert source["url"] == "$METRICLOG_PROMETHEUS_URL" and not source.get("isDefault")
    assert source["jsonData"]["manageAlerts"] is False


def test_the_data_source_speaks_influxql_with_a_token_from_the_environment() -> None:
    assert (DATASOURCE["type"], DATASOURCE["access"]) == ("influxdb", "proxy")
    assert (DATASOURCE["jsonData"]["version"], DATASOURCE["jsonData"]["httpMode"]) == ("InfluxQL", "POST")
    assert DATASOURCE["jsonData"]["httpHeaderName1"] == "Authorization"
    assert DATASOURCE["secureJsonData"]["httpHeaderValue1"] == "Token $METRICLOG_INFLUX_TOKEN"


def test_the_data_source_reads_the_bucket_that_compose_sets_up_at_its_address() -> None:
    assert DATASOURCE["jsonData"]["dbName"] == SERVICES["influxdb"]["environment"]["DOCKER_INFLUXDB_INIT_BUCKET"]
    assert SERVICES["grafana"]["environment"]["METRICLOG_INFLUX_URL"] == "http://influxdb:8086"


def test_dashboards_are_read_from_where_compose_mounts_them_with_folders_as_folders() -> None:
    assert PROVIDER["options"] == {"path": "$METRICLOG_DASHBOARDS_DIR", "foldersFromFilesStructure": True}
    assert not {"folder", "folderUid"} & PROVIDER.keys(), "they do not go with foldersFromFilesStructure"
    mounted = {target: source for source, target, _ in mounts(SERVICES["grafana"])}
    assert mounted[SERVICES["grafana"]["environment"]["METRICLOG_DASHBOARDS_DIR"]] == "./dashboards"


def test_grafana_opens_with_a_dashboard_that_exists() -> None:
    home = SERVICES["grafana"]["environment"]["GF_USERS_HOME_PAGE"]
    assert home in {f"/d/{dashboard.uid}" for dashboard in dashboards.all_dashboards().values()}


def compose_is_there() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "compose", "version"], capture_output=True, timeout=60).returncode == 0


@pytest.mark.skipif(
    not compose_is_there(), reason="docker compose is not installed: its own check of the file is left out"
)
def test_docker_compose_takes_the_file_with_the_example_and_refuses_it_without(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    names = settings_of(EXAMPLE_TEXT)
    environment = {name: value for name, value in os.environ.items() if name not in names}
    config = ["docker", "compose", "config", "--quiet"]

    without = subprocess.run(config, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert without.returncode != 0 and "copy .env.example to .env first" in without.stderr

    (tmp_path / ".env").write_text(EXAMPLE_TEXT)
    subprocess.run(config, cwd=tmp_path, env=environment, check=True, timeout=60)


def engine_works() -> bool:
    return compose_is_there() and subprocess.run(["docker", "info"], capture_output=True, timeout=60).returncode == 0


@pytest.mark.timeout(900)
@pytest.mark.skipif(not engine_works(), reason="no docker engine runs here: the stack itself is not started")
def test_the_stack_comes_up_takes_points_and_shows_the_dashboard(tmp_path: Path) -> None:
    for name in ("docker-compose.yml", "provisioning", "dashboards"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    (tmp_path / ".env").write_text(EXAMPLE_TEXT)
    compose = ["docker", "compose", "--project-name", f"metriclog-test-{os.getpid()}"]
    try:
        subprocess.run([*compose, "up", "--detach", "--wait"], cwd=tmp_path, check=True, timeout=600)
        example = settings_of(EXAMPLE_TEXT)
        settings = metriclog.Settings.load(
            url=example["METRICLOG_URL"], token=example["METRICLOG_TOKEN"], dir=tmp_path / "journal"
        )
        with metriclog.init("compose", settings=settings) as run:
            run.log({"loss": 0.5}, step=1)
            assert run.flush(30.0)
        assert metriclog.reader.open_server(settings).curve(run.run_id, "loss")["value"].tolist() == [0.5]
        login = f"admin:{example['GRAFANA_PASSWORD']}"
        board = ["curl", "-fsS", "-u", login, "http://127.0.0.1:3000/api/dashboards/uid/metriclog-runs"]
        answer = subprocess.run(board, check=True, capture_output=True, timeout=60).stdout
        assert json.loads(answer)["meta"]["provisioned"] is True
    finally:
        subprocess.run([*compose, "down", "--volumes"], cwd=tmp_path, check=False, timeout=300)
