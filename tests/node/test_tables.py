"""Transformations that tables share, by Grafana's own code on answers made by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from metriclog.grafana import tables
from tests.grafana_frames import frames_of
from tests.servers.node import Node


def _series(run: str, model: str, best: float) -> dict[str, Any]:
    tags = {"run": run, "metric": "eval/loss", "model": model, "dataset": ""}
    return {"name": "summary", "tags": tags, "columns": ["time", "best"], "values": [[1000, best]]}


@pytest.mark.parametrize(("best", "of_both"), [("min", 0.25), ("max", 0.5)])
@pytest.mark.parametrize("tags_reversed", [False, True])
def test_the_best_value_of_a_run_is_that_of_its_best_model(
    node: Node, best: str, of_both: float, tags_reversed: bool
) -> None:
    answer = [_series("a", "mlp", 0.5), _series("a", "mlp-ema", 0.25), _series("b", "mlp", 0.75)]
    frames = frames_of({"refId": "best", "resultFormat": "table"}, answer, tags_reversed=tags_reversed)
    written = json.dumps([step.to_dict() for step in tables.matrix("best", "run", "metric", "best", "${best:raw}")])
    chain = json.loads(written.replace("${best:raw}", best))
    (result,) = node.transform([{"transformations": chain, "frames": frames}])
    (frame,) = result["frames"]
    columns = {field["name"]: field["values"] for field in frame["fields"]}
    assert columns == {"__run": ["a", "b"], "eval/loss": [of_both, 0.75]}
