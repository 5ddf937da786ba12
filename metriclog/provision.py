"""The files around metriclog (compose file, provisioning, dashboards): where they are, and writing them to a folder.

A file that the user changed stays as it is. Which ones he changed is known by the hashes of what was written there.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from metriclog import files
from metriclog.errors import UsageError

NAMES = ("docker-compose.yml", ".env.example")
FOLDERS = ("provisioning", "dashboards")
WRITTEN = ".metriclog-provisioned.json"
"""In the folder: what metriclog wrote there, name → SHA-256."""

_KNOWN_SECRET = re.compile(r"(?<==)change-me.*")
_SECRET_BYTES = 24
_SETS = re.compile(r"^(\w+)=(.*)$", re.M)


@dataclass
class Report:
    """What `write` did, by name below the folder. `kept`: changed by the user; `obsolete`: no longer shipped."""

    wrote: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    obsolete: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def shipped_files() -> dict[str, Path]:
    """Every file that comes with metriclog, by its name: in an installed wheel, or in the repository's root."""
    package = Path(__file__).parent
    for root in (package / "provisioned", package.parent):
        if all((root / name).exists() for name in (*NAMES, *FOLDERS)):
            found = [root / name for name in NAMES]
            found += [path for folder in FOLDERS for path in sorted((root / folder).rglob("*")) if _is_ours(path)]
            return {path.relative_to(root).as_posix(): path for path in found}
    raise UsageError("this installation of metriclog came without its files for Grafana: install it again")


def _is_ours(path: Path) -> bool:
    """In the repository an editor or a desktop may have left something of its own beside them, or a running job."""
    if path.parent.name == "targets" and path.suffix == ".json":
        return False
    return path.is_file() and not path.name.startswith(".") and path.suffix != ".pyc" and not path.name.endswith("~")


def shipped_dashboards() -> list[dict[str, Any]]:
    """The dashboards as Grafana reads them."""
    shipped = shipped_files().items()
    return [json.loads(path.read_bytes()) for name, path in shipped if re.fullmatch(r"dashboards/.*\.json", name)]


def write(directory: Path, *, force: bool = False) -> Report:
    """Write all files below `directory`, and a `.env` with secrets of its own where there is none.

    With `force` also over files that the user changed, never over a `.env`. Raises `UsageError` where that cannot be.
    """
    report = Report()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        shipped = {name: path.read_bytes() for name, path in shipped_files().items()}
        written = _read_written(directory)
        for name, body in shipped.items():
            there = _read(directory / name)
            if there == body:
                report.same.append(name)
            elif there is None or force or _hash(there) == written.get(name):
                _replace(directory / name, body)
                report.wrote.append(name)
            else:
                report.kept.append(name)
                continue
            written[name] = _hash(body)
        files.replace(directory / WRITTEN, json.dumps(written, indent=1).encode() + b"\n")
        report.obsolete = [name for name in written if name not in shipped and (directory / name).exists()]
        _write_env(directory / ".env", shipped[".env.example"].decode(), report)
    except OSError as error:
        raise UsageError(f"cannot write to {directory}: {error}") from error
    return report


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _replace(path: Path, body: bytes) -> None:
    _make_folder(path.parent)
    files.replace(path, body)
    path.chmod(0o644)  # nothing in it is secret, and Grafana in its container is another user


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)


def _write_env(path: Path, example: str, report: Report) -> None:
    """Make a .env as the example does, but with secrets that nobody knows. One that is there is the user's."""
    if path.exists() or path.is_symlink():
        report.same.append(".env")
        report.notes += _doubts(path.read_text(encoding="utf-8", errors="replace"), example)
        return
    text = _KNOWN_SECRET.sub(lambda _: secrets.token_hex(_SECRET_BYTES), example)
    files.replace(path, text.encode())  # which makes it private
    report.wrote.append(".env")


def _doubts(env: str, example: str) -> Iterator[str]:
    has, wants = dict(_SETS.findall(env)), dict(_SETS.findall(example))
    known = [name for name, value in has.items() if _KNOWN_SECRET.search(f"={value}")]
    if known:
        yield f".env holds secrets that everybody can read ({', '.join(known)}): .env.example says what to do"
    if missing := [name for name in wants if name not in has]:
        yield f".env does not set {', '.join(missing)}: .env.example says what for"


def _read_written(directory: Path) -> dict[str, str]:
    """What metriclog wrote here before; nothing if that is not known."""
    try:
        found = json.loads((directory / WRITTEN).read_bytes())
        return {str(name): str(value) for name, value in found.items()}
    except (FileNotFoundError, ValueError, AttributeError):
        return {}


def _hash(body: bytes) -> str:
    return sha256(body).hexdigest()
