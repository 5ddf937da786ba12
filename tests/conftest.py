"""What all tests share: clean surroundings, and real InfluxDB servers as fixtures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from metriclog import live
from tests.left_out import on_ci
from tests.servers import build, influxdb, prometheus
from tests.servers.api import Influx, Server, new_bucket

ROOT = Path(__file__).resolve().parents[1]

# Tests run in a folder of their own; without this, hypothesis would forget its failures with that folder.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(ROOT / ".hypothesis"))

Found = influxdb.Source | build.BuildError
_FOUND = pytest.StashKey[dict[str, Found]]()
# The fixtures that need a server, and how each finds one.
_FINDERS: dict[str, Callable[[build.Say], influxdb.Source]] = {
    "influxdb_server": influxdb.find,
    "private_influx": influxdb.find_own,
}


class PrivateInflux(Influx):
    """An InfluxDB of one test's own, to stop, kill and start again; it keeps its data and its port."""

    def __init__(self, instance: influxdb.Instance) -> None:
        super().__init__(instance.server, influxdb.BUCKET)
        self._instance = instance

    def start(self) -> None:
        """Starts it again and returns when it is ready; does nothing where it runs."""
        self._instance.start()
        influxdb.wait_until_ready(self._instance)

    def stop(self) -> None:
        """Asks it to end and waits until it has."""
        self._instance.stop()

    def healthy(self) -> bool:
        """Whether it answers."""
        return self._instance.server.healthy()

    def kill(self) -> None:
        """Ends it as `kill -9` does."""
        self._instance.kill()

    def pause(self) -> None:
        """Stops it in its tracks: it takes connections and answers nothing."""
        self._instance.pause()

    def resume(self) -> None:
        """Lets it go on after `pause`."""
        self._instance.resume()

    def wipe(self) -> None:
        """Replaces it by an empty one at the same address, with the same token and bucket."""
        self._instance.wipe()
        self.start()
        self._instance.server.set_up(self.bucket)

    def pid(self) -> int | None:
        """Its process, to send it signals; None in a container, or while it does not run."""
        return self._instance.pid()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _servers_of(item) or ROOT / "tests" / "live" in item.path.parents:
            item.add_marker("live")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Finds or builds the servers before the first test: a build takes longer than a test's time limit."""
    if session.config.option.collectonly:
        return
    for item in session.items:
        for found in [_found(session.config, fixture) for fixture in sorted(_servers_of(item))]:
            if isinstance(found, influxdb.Missing) and not on_ci():
                # As a marker, so that pytest folds a file's skips into one line.
                item.add_marker(pytest.mark.skip(reason=found.reason))


def _servers_of(item: pytest.Item) -> set[str]:
    return _FINDERS.keys() & set(getattr(item, "fixturenames", ()))


def _found(config: pytest.Config, fixture: str) -> Found:
    """What was found for a fixture: looked for once a session, a failed build remembered too."""
    found = config.stash.setdefault(_FOUND, {})
    if fixture not in found:
        try:
            found[fixture] = _FINDERS[fixture](_speaker(config))
        except build.BuildError as error:
            found[fixture] = error
    return found[fixture]


def _speaker(config: pytest.Config) -> build.Say:
    """A function that prints a line in spite of pytest's capturing: five silent minutes look like a hang."""
    capture = config.pluginmanager.getplugin("capturemanager")
    reporter = config.pluginmanager.getplugin("terminalreporter")

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            if reporter:
                reporter.ensure_newline()
                reporter.write_line(line, flush=True)

    return say


def _usable(found: Found) -> influxdb.External | influxdb.Binary | influxdb.Image:
    if isinstance(found, build.BuildError):
        pytest.fail(str(found), pytrace=False)
    if isinstance(found, influxdb.Missing):
        (pytest.fail if on_ci() else pytest.skip)(found.reason)
    return found


@pytest.fixture(scope="session")
def influxdb_server(pytestconfig: pytest.Config) -> Iterator[Server]:
    """The address of the InfluxDB that the tests of this session share."""
    source = _usable(_found(pytestconfig, "influxdb_server"))
    if isinstance(source, influxdb.External):
        yield source.server
        return
    with influxdb.running(source) as instance:
        yield instance.server


@pytest.fixture
def influx(influxdb_server: Server) -> Iterator[Influx]:
    """An empty bucket of the test's own on the shared server."""
    with new_bucket(influxdb_server) as bucket:
        yield bucket


@pytest.fixture
def private_influx(pytestconfig: pytest.Config) -> Iterator[PrivateInflux]:
    """A server of the test's own, with an empty bucket: about a second to start."""
    source = _usable(_found(pytestconfig, "private_influx"))
    assert not isinstance(source, influxdb.External)
    with influxdb.running(source) as instance:
        yield PrivateInflux(instance)


@pytest.fixture(scope="session")
def programs() -> prometheus.Programs:
    """Prometheus, promtool and Alertmanager; without them a skip, or on CI a failure."""
    found = prometheus.find()
    if isinstance(found, influxdb.Missing):
        (pytest.fail if on_ci() else pytest.skip)(found.reason)
    return found


@pytest.fixture(autouse=True)
def clean_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No METRICLOG_ setting of the developer's reaches a test, and no journal of a test lands in the repository.

    Nor is a run of one test shown to another.
    """
    for source in live.sources():
        live.remove(source)
    for name in list(os.environ):
        if name.startswith("METRICLOG_") and not name.startswith("METRICLOG_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
