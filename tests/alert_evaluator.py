"""Evaluates alert rules as Grafana does, as far as our own file goes: queries, reductions to the last value, math.

An instance is a set of labels with a number. Math joins instances whose labels are the same or a part of the others'
and drops what has no partner; but where each side has a single one and they do not match, it joins them without labels.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.servers.api import Influx

Json = dict[str, Any]
Labels = frozenset[tuple[str, str]]
Instances = Mapping[Labels, float]
NO_LABELS: Labels = frozenset()

FILE = Path(__file__).resolve().parents[1] / "provisioning" / "grafana" / "alerting" / "metriclog.yaml"
_OPERATORS: Mapping[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.And: lambda left, right: bool(left) and bool(right),
    ast.Or: lambda left, right: bool(left) or bool(right),
}


def committed_rules() -> list[Json]:
    """The rules of the file in the repository."""
    (group,) = yaml.safe_load(FILE.read_text(encoding="utf-8"))["groups"]
    rules: list[Json] = group["rules"]
    return rules


def evaluate(rule: Json, influx: Influx, now_s: int) -> dict[str, Instances]:
    """Every result of a rule at an instant, by its name."""
    found: dict[str, Instances] = {}
    for part in rule["data"]:
        model, name = part["model"], part["refId"]
        if part["datasourceUid"] != "__expr__":
            span = part["relativeTimeRange"]
            found[name] = _asked(influx, model["query"], (now_s - span["from"]) * 1000, (now_s - span["to"]) * 1000)
        elif model["type"] == "reduce":
            assert (model["reducer"], model["settings"]) == ("last", {"mode": "dropNN"})
            found[name] = found[model["expression"]]
        else:
            assert model["type"] == "math"
            found[name] = _math(model["expression"], found)
    return found


def firing(rule: Json, influx: Influx, now_s: int) -> list[dict[str, str]]:
    """The labels of each instance whose condition holds, however long it has."""
    instances = evaluate(rule, influx, now_s)[rule["condition"]]
    return [dict(labels) for labels, value in instances.items() if value]


def _asked(influx: Influx, query: str, from_ms: int, to_ms: int) -> Instances:
    asked = query.replace("$timeFilter", f"time >= {from_ms}ms and time <= {to_ms}ms")
    (result,) = influx.query(asked, epoch="ms")["results"]
    instances: dict[Labels, float] = {}
    for series in result.get("series", []):
        labels = frozenset(series.get("tags", {}).items())
        assert len(series["columns"]) == 2 and labels not in instances, f"one number a series: {query}"
        numbers = [value for _, value in series["values"] if value is not None]
        if numbers:
            instances[labels] = float(numbers[-1])
    return instances


def _math(expression: str, found: Mapping[str, Instances]) -> Instances:
    text = re.sub(r"\$(\w+)", r"\1", expression).replace("&&", " and ").replace("||", " or ")
    outcome = _value(ast.parse(text, mode="eval").body, found)
    assert not isinstance(outcome, float)
    return outcome


def _value(node: ast.expr, found: Mapping[str, Instances]) -> Instances | float:
    match node:
        case ast.Constant():
            return float(node.value)  # type: ignore[arg-type]
        case ast.Name():
            return found[node.id]
        case ast.Call(func=ast.Name(id="abs"), args=[inner]):
            return _joined(_value(inner, found), 0.0, lambda value, _: abs(value))
        case ast.BinOp():
            return _joined(_value(node.left, found), _value(node.right, found), _OPERATORS[type(node.op)])
        case ast.Compare(ops=[comparison], comparators=[right]):
            return _joined(_value(node.left, found), _value(right, found), _OPERATORS[type(comparison)])
        case ast.BoolOp():
            outcome = _value(node.values[0], found)
            for other in node.values[1:]:
                outcome = _joined(outcome, _value(other, found), _OPERATORS[type(node.op)])
            return outcome
    raise AssertionError(f"no rule of ours has this: {ast.dump(node)}")


def _joined(
    left: Instances | float, right: Instances | float, combine: Callable[[float, float], float]
) -> Instances | float:
    if isinstance(left, float):
        if isinstance(right, float):
            return float(combine(left, right))
        return {labels: float(combine(left, value)) for labels, value in right.items()}
    if isinstance(right, float):
        return {labels: float(combine(value, right)) for labels, value in left.items()}
    joined = {
        mine | theirs: float(combine(value, other))
        for mine, value in left.items()
        for theirs, other in right.items()
        if mine <= theirs or theirs <= mine
    }
    if not joined and len(left) == len(right) == 1:
        return {NO_LABELS: float(combine(*left.values(), *right.values()))}
    return joined
