"""Imports go down only: the table in ARCHITECTURE.md is read and held, and `import metriclog` stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "metriclog"

# Each of these knows a subject of its own; a second module that imports one has taken over a part of it.
ONLY_ROOM = {
    "influxdb_client": "transport",
    "tenacity": "sender",
    "pandas": "reader",
    "prometheus_client": "exposition",
}

IMPORT_LIMIT_MS = 60
HEAVY = {
    "influxdb_client",
    "numpy",
    "orjson",
    "pandas",
    "prometheus_client",
    "pydantic",
    "pydantic_settings",
    "rich",
    "tenacity",
    "typer",
}
LOADED_BY_IMPORT = {"metriclog", "metriclog.errors"}
LOADED_BY_INIT = {
    "metriclog",
    "metriclog.acks",
    "metriclog.backing",
    "metriclog.deferred",
    "metriclog.directory",
    "metriclog.errors",
    "metriclog.files",
    "metriclog.identity",
    "metriclog.journal",
    "metriclog.keeper",
    "metriclog.ledger",
    "metriclog.levels",
    "metriclog.points",
    "metriclog.receipts",
    "metriclog.recorder",
    "metriclog.replay",
    "metriclog.run",
    "metriclog.segments",
    "metriclog.session",
    "metriclog.spellings",
    "metriclog.volumes",
}


def read_layers(markdown: str) -> dict[str, int]:
    """Module → layer, from the first fenced block after a heading that says "import"; lines are `N name · name`."""
    table = re.search(r"^#+ [^\n]*import[^\n]*\n.*?^```[^\n]*\n(.*?)^```", markdown, re.I | re.M | re.S)
    if table is None:
        raise ValueError("no fenced block after a heading with 'import' in it")
    layers: dict[str, int] = {}
    for line in filter(str.strip, table.group(1).splitlines()):
        number, _, names = line.strip().partition(" ")
        for name in (name.strip() for name in names.split("·")):
            if not number.isdigit() or not re.fullmatch(r"\w+(\.\w+)*", name) or name in layers:
                raise ValueError(f"not a line of the import table, or a name given twice: {line!r}")
            layers[name] = int(number)
    return layers


def module_files(package: Path) -> dict[str, Path]:
    """Module → file; the package itself is `__init__`, a package inside it goes by its folder's name."""
    return {_module_name(path.relative_to(package)): path for path in sorted(package.rglob("*.py"))}


def _module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def imported_names(path: Path, package: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of each import: at the top, in functions, for type checkers, by importlib."""
    folder = [package.name, *path.relative_to(package).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), folder)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif (name := _import_call(node)) is not None:
            yield node.lineno, _absolute(name, folder)  # type: ignore[attr-defined]


def _import_call(node: ast.AST) -> str | None:
    """The name that `importlib.import_module("…")` or `__import__("…")` asks for, where it is written out."""
    match node:
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            return name
    return None


def _absolute(name: str, folder: list[str]) -> str:
    level = len(name) - len(name.lstrip("."))
    above = folder[: len(folder) - level + 1] if level else []
    return ".".join([*above, *filter(None, name.split("."))])


def target_module(name: str, package: Path, modules: set[str]) -> str | None:
    """The module of ours that a dotted name lies in, the longest that is a file; None for names of others."""
    if name.split(".")[0] != package.name:
        return None
    parts = name.split(".")[1:]
    while parts and ".".join(parts) not in modules:
        parts.pop()
    return ".".join(parts) or "__init__"


def violations(package: Path, layers: dict[str, int]) -> list[str]:
    """What is wrong with a package by the table, one sentence each; nothing for a sound one."""
    files = module_files(package)
    found = [f"{name} is a file but not in the table" for name in files.keys() - layers.keys()]
    found += [f"{name} is in the table but not a file" for name in layers.keys() - files.keys()]
    for name in files.keys() & layers.keys():
        for line, imported in imported_names(files[name], package):
            target = target_module(imported, package, set(files))
            if target in layers and layers[target] >= layers[name]:
                found.append(f"{name}:{line} imports {target}: layer {layers[name]} → {layers[target]}")
    return sorted(found)


def test_every_import_goes_to_a_lower_layer_of_the_table_in_architecture_md() -> None:
    layers = read_layers((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))
    assert violations(PACKAGE, layers) == []


@pytest.mark.parametrize("library", ONLY_ROOM)
def test_only_one_room_knows_each_library(library: str) -> None:
    users = {
        name
        for name, path in module_files(PACKAGE).items()
        for _, imported in imported_names(path, PACKAGE)
        if imported.split(".")[0] == library
    }
    assert users <= {ONLY_ROOM[library]}


TABLE = """# A made-up package
```
not this
```
## Imports go down only
Text.
```text
0 low · grafana.low
1 grafana · high
2 __init__
```
"""


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A package that keeps to TABLE."""
    package = tmp_path / "pack"
    (package / "grafana").mkdir(parents=True)
    (package / "__init__.py").write_text("from pack.high import x\nfrom . import grafana\n")
    (package / "low.py").write_text("import os\nfrom pathlib import Path\n")
    (package / "high.py").write_text("import json\nfrom pack import low\nfrom .grafana.low import y\n")
    (package / "grafana" / "__init__.py").write_text("from . import low\nfrom .. import low as other\n")
    (package / "grafana" / "low.py").write_text("")
    return package


def test_the_table_is_read_from_the_block_under_its_heading() -> None:
    assert read_layers(TABLE) == {"low": 0, "grafana.low": 0, "grafana": 1, "high": 1, "__init__": 2}


@pytest.mark.parametrize(
    "text", ["# Imports\nno block\n", "# Imports\n```\nlow high\n```\n", "# Imports\n```\n0 a\n1 a\n```\n"]
)
def test_a_table_that_cannot_be_read_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"import table|no fenced block"):
        read_layers(text)


def test_a_sound_package_has_no_violation(sound: Path) -> None:
    assert violations(sound, read_layers(TABLE)) == []


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("import pack.high", "high"),
        ("from pack.high import x", "high"),
        ("from pack import high", "high"),
        ("from . import high", "high"),
        ("from .high import x", "high"),
        ("from .grafana.low import y", "grafana.low"),
        ("from pack import __version__", "__init__"),
        ("def f():\n    from pack import high", "high"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pack.high import x", "high"),
        ("import importlib\nimportlib.import_module('pack.high')", "high"),
        ("from importlib import import_module\nimport_module('.high', 'pack')", "high"),
    ],
)
def test_an_arrow_upwards_or_sideways_is_found_however_it_is_written(sound: Path, source: str, target: str) -> None:
    (sound / "low.py").write_text(source)
    (found,) = violations(sound, read_layers(TABLE))
    assert re.fullmatch(rf"low:\d+ imports {re.escape(target)}: layer 0 → \d", found)


def test_an_arrow_out_of_an_inner_package_is_found(sound: Path) -> None:
    (sound / "grafana" / "low.py").write_text("from ..high import x")
    assert violations(sound, read_layers(TABLE)) == ["grafana.low:1 imports high: layer 0 → 1"]


def test_a_file_without_a_place_and_a_place_without_a_file_are_found(sound: Path) -> None:
    (sound / "high.py").rename(sound / "new.py")
    (sound / "__init__.py").write_text("")
    assert violations(sound, read_layers(TABLE)) == [
        "high is in the table but not a file",
        "new is a file but not in the table",
    ]


def test_import_metriclog_loads_nothing_heavy_and_these_modules_of_ours() -> None:
    assert _loaded_by("import metriclog") == LOADED_BY_IMPORT
    assert _loaded_by("import metriclog; metriclog.init") == LOADED_BY_INIT


def _loaded_by(script: str) -> set[str]:
    """The modules of ours that a script loads; none of the heavy ones may be among the others."""
    loaded = set(_fresh_python("-c", f"import sys; {script}; print(*sys.modules)").stdout.split())
    assert {name.split(".")[0] for name in loaded} & HEAVY == set()
    return {name for name in loaded if name.split(".")[0] == "metriclog"}


def test_import_metriclog_takes_at_most_60_ms() -> None:
    # What else the machine does can only add to the time that the import itself takes: one quiet moment is enough.
    times_ms: list[float] = []
    while len(times_ms) < 15 and (len(times_ms) < 5 or min(times_ms) > IMPORT_LIMIT_MS):
        times_ms.append(_import_time_ms())
    assert min(times_ms) <= IMPORT_LIMIT_MS, times_ms


def _import_time_ms() -> float:
    report = _fresh_python("-X", "importtime", "-c", "import metriclog").stderr
    cumulative = re.search(r"^import time:\s+\d+ \|\s+(\d+) \| metriclog$", report, re.M)
    assert cumulative is not None, report
    return int(cumulative.group(1)) / 1000


def _fresh_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
