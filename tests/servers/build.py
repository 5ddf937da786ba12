"""Builds InfluxDB's server once, from the Go module pinned in go.mod beside this file, into a cache folder."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
TAIL_LINES = 40
STEP_TIMEOUT_S = 3600.0

Say = Callable[[str], None]


class BuildError(Exception):
    """The build was tried and did not work; the message ends with the last lines of the build's log."""


def version() -> str:
    """The pinned version of InfluxDB, for example `2.9.1`; go.mod is the one place that names it."""
    found = re.search(r"github\.com/influxdata/influxdb/v2 v([\w.-]+)", (HERE / "go.mod").read_text())
    if found is None:
        raise BuildError(f"{HERE / 'go.mod'} does not require github.com/influxdata/influxdb/v2")
    return found.group(1)


def cache_folder() -> Path:
    """Where built servers stay between checkouts: METRICLOG_TEST_CACHE, else a folder in the user's cache."""
    if chosen := os.environ.get("METRICLOG_TEST_CACHE"):
        return Path(chosen).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().resolve() / "metriclog-servers"


def binary() -> Path:
    """The path that the built server has, whether or not it is there yet."""
    return cache_folder() / f"influxd-{version()}"


def tools_present() -> bool:
    """Whether this machine can be expected to build it: Go for the server, Cargo for the query engine inside it."""
    return shutil.which("go") is not None and shutil.which("cargo") is not None


def ensure(say: Say) -> Path:
    """The server's binary, built first where it is missing (about five minutes on two cores).

    Raises BuildError with the tail of the build's log.
    """
    target = binary()
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # Two test runs that start together build once: the second waits here and then finds the binary.
    with locked(target.parent / "build.lock"):
        if not target.exists():
            _build(target, say)
    return target


def _build(target: Path, say: Say) -> None:
    say(f"Building InfluxDB {version()} into {target.parent}: about five minutes, once on this machine.")
    for tool, names in {"a C compiler": ("cc", "gcc", "clang"), "pkg-config": ("pkg-config",)}.items():
        if not any(shutil.which(name) for name in names):
            raise BuildError(f"InfluxDB {version()} cannot be built here: {tool} is missing.")
    log = target.parent / "build.log"
    log.write_bytes(b"")
    env = dict(os.environ, CGO_ENABLED="1")
    pkg_config = target.parent / "pkg-config"
    _go_build(["github.com/influxdata/pkg-config"], pkg_config, env, log)
    env["PKG_CONFIG"] = str(pkg_config)
    # The query engine's source asks rustup for one certain toolchain, a download; any recent one builds it.
    if toolchain := _rust_toolchain():
        env["RUSTUP_TOOLCHAIN"] = toolchain
    tags = ["-tags", "sqlite_foreign_keys,sqlite_json"]
    _go_build([*tags, "github.com/influxdata/influxdb/v2/cmd/influxd"], target, env, log)
    say(f"Built {target}.")


def _go_build(arguments: list[str], target: Path, env: Mapping[str, str], log: Path) -> None:
    part = target.with_name(f"{target.name}.part")
    command = ["go", "build", "-o", str(part), *arguments]
    with log.open("ab") as out:
        out.write(f"$ {' '.join(command)}\n".encode())
        out.flush()
        done = subprocess.run(
            command, cwd=HERE, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=STEP_TIMEOUT_S
        )
    if done.returncode != 0:
        raise BuildError(f"Building {target.name} failed with exit status {done.returncode}; {log} ends:\n{tail(log)}")
    part.replace(target)


def _rust_toolchain() -> str | None:
    """An installed toolchain, the default one if rustup names it; None where there is no rustup to choose with."""
    if shutil.which("rustup") is None:
        return None
    if chosen := os.environ.get("RUSTUP_TOOLCHAIN"):
        return chosen
    # Asked away from the repository, so that no toolchain file in a folder above answers instead of the user's default.
    listed = subprocess.run(
        ["rustup", "toolchain", "list"], cwd=Path.home(), stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    lines = [line for line in listed.stdout.splitlines() if line.split() and "no installed" not in line]
    lines.sort(key=lambda line: "default" not in line)
    return lines[0].split()[0] if lines else None


def tail(log: Path) -> str:
    """The last lines of a log, for an error message."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:])


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock file: of two processes one waits."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
