"""What is written is run: the README's Python, its settings table and its commands, and the examples."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from metriclog.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)


def settings_table() -> str:
    """The README's table of settings, from the settings themselves."""
    rows = ["| variable | default | |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        rows.append(f"| `METRICLOG_{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


@pytest.mark.parametrize("block", BLOCKS, ids=[f"block-{number}" for number in range(len(BLOCKS))])
def test_each_python_block_of_the_readme_runs_as_it_stands(block: str) -> None:
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if not re.match(r"metriclog: run \S+: \S+ is NaN: ", line)]
    assert said == []


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_each_example_runs_as_it_stands(path: Path) -> None:
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_settings_table_of_the_readme_is_the_settings() -> None:
    assert settings_table() in README, "put this into the README:\n" + settings_table()


def test_every_command_of_the_readme_exists() -> None:
    listed = set(re.findall(r"^    metriclog (\w+)", README, re.M))
    from metriclog.cli import app

    assert listed == {
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    }


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"make ([a-z]+)", README)) <= targets | {"secrets"}


def test_every_file_that_the_papers_name_exists() -> None:
    for text in (README, ARCHITECTURE):
        named = set(re.findall(r"[(`]((?:docs|tests|benchmarks|examples|provisioning|dashboards)/[\w./-]+)[)`]", text))
        assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_architecture_stays_within_200_lines() -> None:
    assert len(ARCHITECTURE.splitlines()) <= 200


if __name__ == "__main__":
    sys.stdout.write(settings_table() + "\n")
