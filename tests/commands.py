"""The command `metriclog`, run in the test's own process as a user runs it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Mapping
from typing import Any
from unittest import mock

from metriclog import cli


def metriclog(*arguments: str, **settings: object) -> tuple[int, str, str]:
    """Exit code, what it printed, what it complained; `settings` become METRICLOG_ variables."""
    given = {f"METRICLOG_{name.upper()}": str(value) for name, value in settings.items()}
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    surroundings: Mapping[str, str] = {**given, "COLUMNS": "250", "NO_COLOR": "1"}
    with (
        mock.patch.dict(os.environ, surroundings),
        mock.patch.object(sys, "argv", ["metriclog", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    return int(str(code or 0)), out.getvalue(), err.getvalue()


def metriclog_json(*arguments: str, **settings: object) -> Any:
    """What it prints with --json, whatever its exit code."""
    code, out, err = metriclog(*arguments, "--json", **settings)
    assert code in (0, 1), err
    return json.loads(out)
