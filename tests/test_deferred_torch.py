"""A real CUDA tensor, where there is torch and a device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import metriclog
from metriclog import testing


@pytest.fixture
def captured() -> Iterator[testing.Captured]:
    with testing.capture() as kept:
        yield kept


def test_torch_tensors_on_an_accelerator_are_read_behind_the_callers_back(captured: testing.Captured) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    with metriclog.init("exp") as run:
        value = torch.tensor(0.5, device="cuda", requires_grad=True) * 2
        run.log({"loss": value}, 3)
        value.detach().zero_()
    assert captured.curve("loss") == [(3, 1.0)]
