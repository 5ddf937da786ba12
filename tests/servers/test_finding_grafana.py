"""How Grafana and node are found, with stand-ins for docker, node and npm on PATH."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.servers import build, grafana, node
from tests.servers.api import Server
from tests.servers.grafana_api import Grafana
from tests.servers.influxdb import Image, Missing
from tests.servers.processes import StartError
from tests.servers.test_finding import Machine

# As npm leaves it: a folder of packages beside the copied package.json.
INSTALLS = 'mkdir node_modules && echo x >> "$COUNT"'


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A PATH with nothing but the programs of a test, and the tools that their scripts need."""
    folder = tmp_path / "bin"
    folder.mkdir()
    made = Machine(folder)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("METRICLOG_TEST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COUNT", str(tmp_path / "installs"))
    for name in ("URL", "TOKEN", "HOME"):
        monkeypatch.delenv(f"METRICLOG_TEST_GRAFANA_{name}", raising=False)
    return made


# --- Grafana ----------------------------------------------------------------------------------------------------------


def test_a_grafana_named_in_the_environment_wins_over_everything(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine.has("docker")
    monkeypatch.setenv("METRICLOG_TEST_GRAFANA_HOME", str(tmp_path))
    monkeypatch.setenv("METRICLOG_TEST_GRAFANA_URL", "http://127.0.0.1:1/")
    monkeypatch.setenv("METRICLOG_TEST_GRAFANA_TOKEN", "t")
    assert grafana.find(by_name=True) == grafana.External(Grafana("http://127.0.0.1:1", "t"))


def test_a_home_folder_is_taken_if_it_is_one(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("METRICLOG_TEST_GRAFANA_HOME", str(tmp_path / "home"))
    assert grafana.find(by_name=True) == Missing(f"METRICLOG_TEST_GRAFANA_HOME: no bin/grafana in {tmp_path / 'home'}")
    for name in ("bin/grafana", "conf", "public"):
        (tmp_path / "home" / name).mkdir(parents=True)
    assert grafana.find(by_name=True) == grafana.Home(tmp_path / "home")


def test_docker_runs_the_image_of_the_compose_file_but_only_where_it_is_asked_for(machine: Machine) -> None:
    machine.has("docker")
    found = grafana.find(by_name=True)
    assert isinstance(found, Image) and found.name.startswith("grafana/grafana:")
    assert isinstance(grafana.find(by_name=False), Missing)


def test_a_container_that_does_not_start_is_an_error_and_is_removed(machine: Machine, tmp_path: Path) -> None:
    machine.has("docker", 'echo "$@" >> "$COUNT"; [ "$1" != start ]')
    server = Server("http://127.0.0.1:8086", "the-token", "metriclog")
    with pytest.raises(StartError, match="docker start"), grafana.running(Image("grafana/grafana:1.2.3"), server):
        pass
    create, _, remove = (tmp_path / "installs").read_text().splitlines()
    assert create.startswith("create ") and create.endswith(" grafana/grafana:1.2.3")
    assert "--env METRICLOG_INFLUX_TOKEN=the-token" in create
    for folder in ("datasources", "dashboards"):
        assert f"{grafana.PROVISIONING / folder}:/etc/grafana/provisioning/{folder}:ro" in create
    assert remove.startswith("rm --force --volumes metriclog-test-")


def test_without_a_grafana_one_line_says_what_to_do(machine: Machine) -> None:
    found = grafana.find(by_name=True)
    assert isinstance(found, Missing)
    assert "METRICLOG_TEST_GRAFANA_HOME" in found.reason and "\n" not in found.reason


# --- Node -------------------------------------------------------------------------------------------------------------


def has_node(machine: Machine, version: str = "v99.0.0", npm: str = INSTALLS) -> None:
    machine.has("node", f"echo {version}")
    machine.has("npm", f"PATH=/usr/bin:/bin\n{npm}")


def test_without_node_or_npm_one_line_says_so(machine: Machine) -> None:
    machine.has("node", "echo v99.0.0")
    assert node.find(machine.said.append) == Missing("no node: put node and npm on PATH")


def test_an_old_node_is_passed_over(machine: Machine) -> None:
    has_node(machine, "v20.9.1")
    assert node.find(machine.said.append) == Missing(f"no node of 20.19 or newer: {machine.folder / 'node'} is v20.9.1")


def test_the_package_is_installed_once_into_the_cache(machine: Machine, tmp_path: Path) -> None:
    has_node(machine)
    found = [node.find(machine.said.append) for _ in range(2)]
    version = json.loads((node.NODE_FOLDER / "package.json").read_text())["dependencies"][node.PACKAGE]
    folder = build.cache_folder() / f"grafana-data-{version}"
    assert found == [node.Node(str(machine.folder / "node"), folder)] * 2
    assert (folder / "node_modules").is_dir() and (folder / "package.json").is_file()
    assert (tmp_path / "installs").read_text() == "x\n"
    assert len(machine.said) == 1 and version in machine.said[0]


def test_a_failed_installation_shows_what_npm_said_and_leaves_nothing_to_be_taken_for_whole(machine: Machine) -> None:
    has_node(machine, npm="echo 'npm error network' >&2; exit 7")
    with pytest.raises(node.InstallError, match=r"exit status 7; it printed:\n(.|\n)*npm error network"):
        node.find(machine.said.append)
    has_node(machine)
    assert isinstance(node.find(machine.said.append), node.Node)


def test_the_version_is_an_exact_one() -> None:
    wanted = json.loads((node.NODE_FOLDER / "package.json").read_text())
    assert all(version[0].isdigit() for version in wanted["dependencies"].values())
