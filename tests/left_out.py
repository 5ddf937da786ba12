"""Tests that cannot run here are left out as a whole, and that is said in one line, however many they are."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

_REASONS = pytest.StashKey[dict[str, int]]()


def leave_out(
    config: pytest.Config, items: list[pytest.Item], wanted: Callable[[pytest.Item], bool], reason: str
) -> None:
    """Takes the items for which `wanted` holds out of the session, and remembers why."""
    out = [item for item in items if wanted(item)]
    if out:
        items[:] = [item for item in items if not wanted(item)]
        config.hook.pytest_deselected(items=out)
        reasons = config.stash.setdefault(_REASONS, {})
        reasons[reason] = reasons.get(reason, 0) + len(out)


def lines(config: pytest.Config) -> list[str]:
    """What was left out and why, a line a reason; each is said once."""
    reasons = config.stash.get(_REASONS, {})
    said = [f"{count} tests left out: {reason}" for reason, count in reasons.items()]
    reasons.clear()
    return said


def on_ci() -> bool:
    """There a skip would read as a pass of what matters most, so a missing server fails."""
    return os.environ.get("CI", "").lower() in {"true", "1"}
