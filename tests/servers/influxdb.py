"""Finds a real InfluxDB, or starts one, for tests and benchmarks.

In this order: METRICLOG_TEST_INFLUXDB_URL (with _TOKEN and _ORG); `influxd` on PATH; docker; a build from go.mod beside
this file. By hand, from the repository's root:

    python -m tests.servers.influxdb path           prints the path of influxd, building it where that is needed
    python -m tests.servers.influxdb run --port 0   runs a fresh one until Ctrl-C and prints METRICLOG_URL, _TOKEN, …
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.servers import build, processes
from tests.servers.api import Server
from tests.servers.processes import StartError

ORG = "metriclog"
BUCKET = "metriclog"
START_DEADLINE_S = 120.0
# Below the range that systems take client ports from: a stopped server finds its port free when it starts again.
PORTS = range(20_000, 32_000)


@dataclass(frozen=True)
class External:
    """A server that somebody else runs: METRICLOG_TEST_INFLUXDB_URL."""

    server: Server


@dataclass(frozen=True)
class Binary:
    """An influxd on this machine."""

    path: Path


@dataclass(frozen=True)
class Image:
    """A container image, where docker works."""

    name: str


@dataclass(frozen=True)
class Missing:
    """None of the ways is open here; `reason` says in one line what would open one."""

    reason: str


Own = Binary | Image | Missing
Source = External | Own


def find(say: build.Say) -> Source:
    """The InfluxDB to test against. Raises build.BuildError where one could be built and the build fails."""
    if url := os.environ.get("METRICLOG_TEST_INFLUXDB_URL"):
        token = os.environ.get("METRICLOG_TEST_INFLUXDB_TOKEN", "")
        return External(Server(url.rstrip("/"), token, os.environ.get("METRICLOG_TEST_INFLUXDB_ORG", ORG)))
    return find_own(say)


def find_own(say: build.Say) -> Own:
    """As `find`, for a server that a test may stop and kill: never somebody else's."""
    if found := shutil.which("influxd"):
        return Binary(Path(found))
    if docker_works():
        return Image(f"influxdb:{build.version()}")
    if build.binary().exists() or build.tools_present():
        return Binary(build.ensure(say))
    return Missing(
        "no InfluxDB: set METRICLOG_TEST_INFLUXDB_URL, or put influxd on PATH, or start docker, or install Go and Cargo"
    )


def docker_works() -> bool:
    """Whether there is a docker here with an engine behind it."""
    if shutil.which("docker") is None:
        return False
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=20.0).returncode == 0
    except subprocess.TimeoutExpired:
        return False


class Instance(Protocol):
    """A server of our own. It keeps its port and its data from `start` to `start`; `close` ends it and forgets both.

    `pause` stops it in its tracks until `resume`; `wipe` ends it and deletes its data, but the port stays.
    """

    server: Server

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def wipe(self) -> None: ...
    def running(self) -> bool: ...
    def pid(self) -> int | None: ...
    def output(self) -> str: ...
    def close(self) -> None: ...


class ProcessInstance:
    """An influxd run as a child process, its data in a folder."""

    def __init__(self, binary: Path, folder: Path, port: int) -> None:
        self.server = _address(port)
        self._binary = binary
        self._folder = folder
        self._log = folder / "influxd.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self.running():
            return
        # An INFLUXD_ setting of the surroundings could add what a test does not expect.
        env = {name: value for name, value in os.environ.items() if not name.startswith("INFLUXD_")}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), cwd=self._folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _command(self) -> list[str]:
        places = [f"--bolt-path={self._folder / 'influxd.bolt'}", f"--engine-path={self._folder / 'engine'}"]
        address = f"--http-bind-address={self.server.url.removeprefix('http://')}"
        return [str(self._binary), *places, address, "--reporting-disabled", "--log-level=error"]

    def stop(self) -> None:
        if self._process is not None:
            processes.end(self._process)

    def kill(self) -> None:
        if self._process is not None:
            processes.kill(self._process)

    def pause(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        self.stop()
        (self._folder / "influxd.bolt").unlink(missing_ok=True)
        shutil.rmtree(self._folder / "engine", ignore_errors=True)

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def output(self) -> str:
        return build.tail(self._log)

    def close(self) -> None:
        self.stop()


class ContainerInstance:
    """The same in a container, its port published on loopback alone."""

    def __init__(self, image: str, port: int) -> None:
        self.server = _address(port)
        self._name = f"metriclog-test-{secrets.token_hex(6)}"
        self._image, self._publish = image, f"127.0.0.1:{port}:8086"
        self._create()

    def _create(self) -> None:
        command = ("create", "--name", self._name, "--publish", self._publish, self._image)
        docker(*command, "--reporting-disabled", "--log-level=error")

    def start(self) -> None:
        docker("start", self._name)

    def stop(self) -> None:
        docker("stop", self._name)

    def kill(self) -> None:
        docker("kill", self._name)

    def pause(self) -> None:
        docker("pause", self._name)

    def resume(self) -> None:
        docker("unpause", self._name)

    def wipe(self) -> None:
        self.close()
        self._create()

    def pid(self) -> int | None:
        return None

    def running(self) -> bool:
        return docker("inspect", "--format", "{{.State.Running}}", self._name).strip() == "true"

    def output(self) -> str:
        return docker("logs", "--tail", str(build.TAIL_LINES), self._name)

    def close(self) -> None:
        docker("rm", "--force", "--volumes", self._name)


def docker(*arguments: str) -> str:
    """What `docker …` printed. Raises StartError where it fails."""
    # Both streams in one: `docker logs` prints the server's own errors on the second.
    done = subprocess.run(
        ["docker", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        raise StartError(f"docker {' '.join(arguments)}: {done.stdout.strip()}")
    return done.stdout


def _address(port: int) -> Server:
    return Server(f"http://127.0.0.1:{port}", secrets.token_urlsafe(32), ORG)


def free_port() -> int:
    """A port on loopback that nothing listens on at this moment."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise StartError(f"no free port on loopback among a hundred tried from {PORTS.start} to {PORTS.stop}")


def wait_until_ready(instance: Instance) -> None:
    """Returns once the server answers /health. Raises StartError if it ends, or START_DEADLINE_S passes, before."""
    processes.wait_until_ready("InfluxDB", instance.server.healthy, instance.running, instance.output, START_DEADLINE_S)


@contextmanager
def running(source: Binary | Image, port: int = 0) -> Iterator[Instance]:
    """A fresh server with an empty bucket named BUCKET; gone afterwards, with its data. Port 0: any free one."""
    with tempfile.TemporaryDirectory(prefix="metriclog-influxdb-", ignore_cleanup_errors=True) as folder:
        instance = _new(source, Path(folder), port or free_port())
        try:
            instance.start()
            wait_until_ready(instance)
            instance.server.set_up(BUCKET)
            yield instance
        finally:
            instance.close()


def _new(source: Binary | Image, folder: Path, port: int) -> Instance:
    if isinstance(source, Image):
        return ContainerInstance(source.name, port)
    return ProcessInstance(source.path, folder, port)


def main(arguments: list[str] | None = None) -> int:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.servers.influxdb", description="A real InfluxDB to try with."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("path", help="print the path of influxd, building it where that is needed")
    run = commands.add_parser("run", help="run a fresh server until Ctrl-C and print its address and token")
    run.add_argument("--port", type=int, default=0, help="port on loopback; 0, the default, takes a free one")
    chosen = parser.parse_args(arguments)
    try:
        return _print_path() if chosen.command == "path" else _run(chosen.port)
    except (build.BuildError, StartError) as error:
        _say(str(error))
        return 1


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _print_path() -> int:
    on_path = shutil.which("influxd")
    sys.stdout.write(f"{on_path or build.ensure(_say)}\n")
    return 0


def _run(port: int) -> int:
    source = find_own(_say)
    if isinstance(source, Missing):
        _say(source.reason)
        return 1
    asked_to_stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked_to_stop.set())
    with running(source, port) as instance:
        server = instance.server
        values = {"URL": server.url, "TOKEN": server.token, "ORG": server.org, "BUCKET": BUCKET}
        sys.stdout.write("".join(f"export METRICLOG_{name}={value}\n" for name, value in values.items()))
        sys.stdout.flush()
        _say("InfluxDB runs until Ctrl-C; its data are deleted then.")
        while not asked_to_stop.wait(1.0):
            if not instance.running():
                raise StartError(f"InfluxDB ended by itself; it printed:\n{instance.output()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
