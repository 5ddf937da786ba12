"""Finds node, and installs Grafana's npm package for it: once on a machine, into the cache folder of test servers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers import build
from tests.servers.influxdb import Missing

NODE_FOLDER = Path(__file__).resolve().parents[1] / "node"
PACKAGE = "@grafana/data"
RUN_TIMEOUT_S = 300.0


class InstallError(Exception):
    """npm was run and did not work; the message ends with what it printed last."""


@dataclass(frozen=True)
class Node:
    """A node program and the folder where its packages are."""

    program: str
    folder: Path

    def transform(self, chains: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The results of tests/node/transform.cjs, chain by chain."""
        command = [self.program, str(NODE_FOLDER / "transform.cjs"), str(self.folder)]
        done = subprocess.run(
            command, input=json.dumps(chains), capture_output=True, encoding="utf-8", timeout=RUN_TIMEOUT_S
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr[-4000:]}")
        results: list[dict[str, Any]] = json.loads(done.stdout)
        return results


def find(say: build.Say) -> Node | Missing:
    """A node that is new enough, with the packages of tests/node/package.json. Raises InstallError."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return Missing("no node: put node and npm on PATH")
    wanted = json.loads((NODE_FOLDER / "package.json").read_text(encoding="utf-8"))
    oldest = wanted["engines"]["node"].removeprefix(">=")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=60).stdout.strip()
    if _numbers(version) < _numbers(oldest):
        return Missing(f"no node of {oldest} or newer: {node} is {version or 'broken'}")
    return Node(node, _installed(npm, wanted["dependencies"][PACKAGE], say))


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _installed(npm: str, version: str, say: build.Say) -> Path:
    folder = build.cache_folder() / f"grafana-data-{version}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with build.locked(folder.parent / "npm.lock"):
        if not folder.exists():
            say(f"Installing {PACKAGE} {version} into {folder}: about 160 MB, once on this machine.")
            _install(npm, folder)
    return folder


def _install(npm: str, folder: Path) -> None:
    # Under another name until it is whole: a folder that is there is taken as it is.
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    shutil.copy(NODE_FOLDER / "package.json", part)
    quiet = ["--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--loglevel=error"]
    done = subprocess.run(
        [npm, "install", *quiet],
        cwd=part,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=build.STEP_TIMEOUT_S,
    )
    if done.returncode != 0:
        last = "\n".join(done.stdout.splitlines()[-build.TAIL_LINES :])
        raise InstallError(f"npm install in {part} failed with exit status {done.returncode}; it printed:\n{last}")
    part.rename(folder)
