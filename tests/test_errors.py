"""The error tree: what its docstring draws is what there is, and every error says what a reader needs."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from metriclog import errors
from metriclog.errors import MetriclogError

CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, Exception) and kind.__module__ == errors.__name__
}


def drawn() -> dict[str, tuple[str, set[str]]]:
    """Error → (its parent, further bases), from the tree in the docstring."""
    tree: dict[str, tuple[str, set[str]]] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^([ │├└─]*)(\w+Error)(?:\s+\((\w+)\))?", line)
        if found:
            depth = len(found[1])
            above = [(other, name) for other, name in above if other < depth]
            tree[found[2]] = (above[-1][1] if above else "Exception", {found[3]} if found[3] else set())
            above.append((depth, found[2]))
    return tree


def test_the_drawn_tree_is_the_tree() -> None:
    there: dict[str, tuple[str, set[str]]] = {}
    for name, kind in CLASSES.items():
        parent, *others = (base.__name__ for base in kind.__bases__)
        there[name] = (parent, set(others))
    assert {name: parent for name, (parent, _) in drawn().items()} == {
        name: parent for name, (parent, _) in there.items()
    }
    for name, (_, further) in drawn().items():
        assert further <= there[name][1], name


@pytest.mark.parametrize("kind", CLASSES.values())
def test_everything_raised_here_is_caught_by_one_name(kind: type[Exception]) -> None:
    assert issubclass(kind, MetriclogError)
    assert kind.__doc__


def test_data_is_in_attributes() -> None:
    assert errors.QuarantinedError("field type conflict").reason == "field type conflict"
    assert errors.TransientError("busy", status=503, retry_after_s=2.5).retry_after_s == 2.5
    assert errors.TransientError("no answer").status is None
    assert errors.UnparsableError("bad", status=400, reasons={b"x": "missing fields"}).reasons == {
        b"x": "missing fields"
    }


def test_misuse_is_also_what_python_calls_it() -> None:
    assert issubclass(errors.MetricNameError, ValueError)
    assert issubclass(errors.MetricValueError, TypeError)
    assert issubclass(errors.StepError, TypeError)
    assert issubclass(errors.SettingsError, ValueError)
    assert issubclass(errors.RunNotFoundError, LookupError)
    assert issubclass(errors.MissingPackageError, ImportError)


@pytest.mark.parametrize("error", [errors.MetricNameError("bad name"), errors.QuarantinedError("field type conflict")])
def test_errors_cross_processes(error: MetriclogError) -> None:
    """A worker of multiprocessing hands its exception to the parent by pickle."""
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))
