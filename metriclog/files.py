"""Small files beside a journal: private to the user, and replaced as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def private(path: str, flags: int) -> int:
    """An `opener` for `open()`: a file it makes can be read by nobody else."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def replace(path: Path, body: bytes) -> None:
    """Write a file durably: temporary file, fsync, rename. `OSError` passes through."""
    partial = path.with_suffix(f".{os.urandom(6).hex()}.tmp")  # not by pid: other hosts have the same ones
    with open(partial, "wb", opener=private) as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
