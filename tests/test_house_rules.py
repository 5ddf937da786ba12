"""The house rules that a machine can check, over every file that git knows or would add."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FILE_LINES = 400
FUNCTION_LINES = 40
PARAMETERS = 7
NESTING = 4

# Public signatures that are promised by name; everything in them is a keyword with a default.
WIDE_BY_PROMISE = {
    "provision": "a command: each is one of its options, which the README promises",
    "init": "the keywords that W&B's and MLflow's users type, each independent of the others",
}

# Written by `python -m metriclog.grafana`, and compared with what it would write.
GENERATED = {ROOT / "provisioning" / "grafana" / "alerting" / "metriclog.yaml"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def _files() -> list[Path]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    if listed.returncode != 0:
        pytest.skip("not a git checkout: which files belong to the repository is unknown", allow_module_level=True)
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def _text(path: Path) -> str:
    """A file's text; nothing for a picture."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


FILES = _files()
SOURCES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES if path.suffix == ".py"}


def _functions() -> Iterator[tuple[str, Function]]:
    for path, tree in SOURCES.items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def _is_code(path: Path) -> bool:
    """Python, YAML, TOML, shell, make and Go module files: those that can carry a comment and ought to."""
    by_name = path.suffix in {".py", ".yml", ".yaml", ".toml", ".sh"} or path.name in {"Makefile", "go.mod"}
    return by_name or _text(path).startswith("#!")


def _starts_with_its_purpose(path: Path) -> bool:
    if path in SOURCES:
        return ast.get_docstring(SOURCES[path]) is not None
    lines = [line for line in _text(path).splitlines() if line.strip() and not line.startswith("#!")]
    return bool(lines) and re.match(r"(#|//)\s*\w", lines[0]) is not None


def _body_lines(function: Function) -> int:
    """Lines from `def` to the end, without the docstring."""
    docstring = function.body[0] if ast.get_docstring(function) is not None else None
    spared = (docstring.end_lineno or 0) - docstring.lineno + 1 if docstring else 0
    return (function.end_lineno or 0) - function.lineno + 1 - spared


def _parameters(function: Function) -> list[str]:
    given = function.args
    names = [arg.arg for arg in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    names += [arg.arg for arg in (given.vararg, given.kwarg) if arg]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def _nesting(node: ast.AST) -> int:
    """How deep blocks stand in each other; `elif` counts as its `if`, an inner function starts anew."""
    depths = [0]
    for child in ast.iter_child_nodes(node):
        if isinstance(child, SCOPES):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        depths.append(_nesting(child) + (isinstance(child, BLOCKS) and not is_elif))
    return max(depths)


def test_no_source_file_is_longer_than_400_lines() -> None:
    written = [path for path in FILES if _is_code(path) and path not in GENERATED]
    lengths = {path.relative_to(ROOT): len(_text(path).splitlines()) for path in written}
    assert {str(path): length for path, length in lengths.items() if length > FILE_LINES} == {}


def test_no_function_is_longer_than_40_lines_beside_its_docstring() -> None:
    lengths = {where: _body_lines(function) for where, function in _functions()}
    assert {where: length for where, length in lengths.items() if length > FUNCTION_LINES} == {}


def test_no_function_takes_more_than_7_parameters_unless_it_is_promised_so() -> None:
    wide = {where: function for where, function in _functions() if len(_parameters(function)) > PARAMETERS}
    assert [where for where, function in wide.items() if function.name not in WIDE_BY_PROMISE] == []
    assert {function.name for function in wide.values()} == WIDE_BY_PROMISE.keys(), "a promise nobody needs any more"


def test_no_function_nests_its_blocks_deeper_than_4() -> None:
    depths = {where: _nesting(function) for where, function in _functions()}
    assert {where: depth for where, depth in depths.items() if depth > NESTING} == {}


def test_every_file_of_code_starts_by_saying_what_it_is_for() -> None:
    assert [
        str(path.relative_to(ROOT)) for path in FILES if _is_code(path) and not _starts_with_its_purpose(path)
    ] == []


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    # Spelled so that this line is not one itself; a slash inside a longer path or an address is somebody else's folder.
    machine_path = re.compile(r"(?<![\w.~}])/(?:root|work|home|Users)/")
    hits = {str(path.relative_to(ROOT)): machine_path.findall(_text(path)) for path in FILES}
    assert {path for path, found in hits.items() if found} == set()


def test_no_module_is_a_drawer_for_everything() -> None:
    drawers = {"utils", "util", "helpers", "common", "misc"}
    assert [str(path) for path in SOURCES if drawers & {path.stem, *path.relative_to(ROOT).parts}] == []


def test_the_checks_themselves_count_as_said() -> None:
    source = '''
def f(self, a, *, b=1, **c):
    """Two
    lines."""
    if a:
        for _ in a:
            pass
    elif b:
        with c:
            while True:
                def inner():
                    if a: pass
'''
    function = ast.parse(source).body[0]
    assert isinstance(function, Function)
    assert _parameters(function) == ["a", "b", "c"]
    assert _body_lines(function) == 9
    assert _nesting(function) == 3
