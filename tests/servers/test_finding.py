"""How the test servers are found and built, with stand-ins for influxd, docker, go and cargo on PATH."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.servers import build, influxdb
from tests.servers.api import Server

WRITES_ITS_OUTPUT = 'while [ "$1" != -o ]; do shift; done; echo built >> "$2"; echo x >> "$COUNT"'


class Machine:
    """A PATH that holds only the programs a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []

    def has(self, program: str, script: str = "exit 0") -> None:
        path = self.folder / program
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def has_build_tools(self, go: str) -> None:
        for program in ("cargo", "cc", "pkg-config"):
            self.has(program)
        self.has("go", go)

    def finds(self) -> influxdb.Source:
        return influxdb.find(self.said.append)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("METRICLOG_TEST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COUNT", str(tmp_path / "builds"))
    monkeypatch.delenv("METRICLOG_TEST_INFLUXDB_URL", raising=False)
    return Machine(folder)


def test_a_server_named_in_the_environment_wins_over_everything(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.has("influxd")
    monkeypatch.setenv("METRICLOG_TEST_INFLUXDB_URL", "http://127.0.0.1:1/")
    monkeypatch.setenv("METRICLOG_TEST_INFLUXDB_TOKEN", "t")
    monkeypatch.setenv("METRICLOG_TEST_INFLUXDB_ORG", "o")
    assert machine.finds() == influxdb.External(Server("http://127.0.0.1:1", "t", "o"))


def test_a_test_that_kills_its_server_never_gets_somebody_elses(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.has("influxd")
    monkeypatch.setenv("METRICLOG_TEST_INFLUXDB_URL", "http://127.0.0.1:1")
    assert influxdb.find_own(machine.said.append) == influxdb.Binary(machine.folder / "influxd")


def test_influxd_on_path_wins_over_docker(machine: Machine) -> None:
    machine.has("influxd")
    machine.has("docker")
    assert machine.finds() == influxdb.Binary(machine.folder / "influxd")


def test_a_working_docker_runs_the_pinned_image(machine: Machine) -> None:
    machine.has("docker")
    machine.has_build_tools(go="exit 1")
    assert machine.finds() == influxdb.Image(f"influxdb:{build.version()}")


def test_a_docker_without_an_engine_is_passed_over_and_the_server_is_built(machine: Machine) -> None:
    machine.has("docker", "exit 1")
    machine.has_build_tools(go=WRITES_ITS_OUTPUT)
    assert machine.finds() == influxdb.Binary(build.binary())
    assert build.binary().read_text() == "built\n"
    assert "about five minutes" in machine.said[0]


def test_a_built_server_is_used_again_without_a_word(machine: Machine) -> None:
    build.binary().parent.mkdir(parents=True)
    build.binary().touch()
    assert machine.finds() == influxdb.Binary(build.binary())
    assert machine.said == []


def test_two_test_runs_at_once_build_once(machine: Machine, tmp_path: Path) -> None:
    machine.has_build_tools(go=WRITES_ITS_OUTPUT)
    runs = [threading.Thread(target=machine.finds) for _ in range(4)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(timeout=60)
    assert (tmp_path / "builds").read_text() == "x\nx\n", "pkg-config and influxd, once each"


def test_a_failed_build_shows_the_end_of_its_log_and_leaves_no_binary(machine: Machine) -> None:
    machine.has_build_tools(go='echo "undefined: flux" >&2; exit 2')
    with pytest.raises(build.BuildError, match=r"exit status 2; .*build\.log ends:\n(.|\n)*undefined: flux"):
        machine.finds()
    assert not build.binary().exists()


def test_a_build_without_a_c_compiler_says_what_is_missing(machine: Machine) -> None:
    machine.has("go")
    machine.has("cargo")
    with pytest.raises(build.BuildError, match="a C compiler is missing"):
        machine.finds()


def test_with_none_of_them_one_line_says_what_to_do(machine: Machine) -> None:
    found = machine.finds()
    assert isinstance(found, influxdb.Missing)
    assert "METRICLOG_TEST_INFLUXDB_URL" in found.reason and "\n" not in found.reason


def test_the_default_rust_toolchain_is_chosen(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUSTUP_TOOLCHAIN", raising=False)
    machine.has("rustup", 'echo "nightly-x"; echo "stable-x (active, default)"; echo "1.95.0-x"')
    machine.has_build_tools(go=f'{WRITES_ITS_OUTPUT}; echo "$RUSTUP_TOOLCHAIN"')
    machine.finds()
    assert "stable-x" in (build.cache_folder() / "build.log").read_text().splitlines()
