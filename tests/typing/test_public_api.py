"""The sample that mypy checks also runs: its types are those of working code."""

from __future__ import annotations

from tests.typing.public_api import whole


def test_the_typed_sample_runs_and_logs_what_it_says() -> None:
    captured = whole()
    assert captured.values("loss") == [0.5, 1.0, 0.5, 0.5, 0.5, 0.5, 0.4, 0.5]
    assert captured.values("train/loss") == [0.5]
    assert captured.params()["net/depth"] == 3.0
