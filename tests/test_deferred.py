"""Values on a device: `log()` returns at once, and the number that was there at the call follows."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import metriclog
from metriclog import deferred, testing
from metriclog.deferred import hold, is_on_device
from metriclog.errors import MetricValueError, NotDeliveredError
from metriclog.settings import Settings
from tests.faults.loads import python
from tests.servers.scripted import says, serving

LIMIT_S = 20.0
AT_ONCE_S = 1.0  # on a busy machine; a wait for a device would be LIMIT_S


class Device:
    """As a tensor's: `type` says which kind."""

    def __init__(self, kind: str) -> None:
        self.type = kind


class Tensor:
    """A 0-d tensor on a device: reading it blocks until the test opens the gate."""

    shape = ()

    def __init__(self, value: float, gate: threading.Event, *, can_clone: bool = True) -> None:
        self.value, self.gate = value, gate
        self.device = Device("cuda")
        self.readers: list[str] = []
        self.clones: list[Tensor] = []
        if can_clone:
            self.clone = self._clone

    def __float__(self) -> float:
        self.readers.append(threading.current_thread().name)
        assert self.gate.wait(LIMIT_S), "the test left the gate closed"
        return self.value

    def zero_(self) -> None:
        """Change the value in place, as an optimizer does."""
        self.value = 0.0

    def _clone(self) -> Tensor:
        copy = Tensor(self.value, self.gate)
        self.clones.append(copy)
        return copy


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Closed: no device answers. Opened at the end, or threads would stay."""
    made = threading.Event()
    yield made
    made.set()


@pytest.fixture
def captured() -> Iterator[testing.Captured]:
    with testing.capture() as found:
        yield found


# -- what is on a device ----------------------------------------------------------------------------------------


class Jax:
    def __init__(self, platform: str) -> None:
        self.device = type("JaxDevice", (), {"platform": platform})()


class Named:
    def __init__(self, device: str | None) -> None:
        self.device = device


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.0, False),
        (Tensor(1.0, threading.Event()), True),
        (Jax("gpu"), True),
        (Jax("tpu"), True),
        (Jax("cpu"), False),
        (Named("cpu"), False),
        (Named("/job:localhost/device:GPU:0"), True),
        (Named(None), False),
    ],
)
def test_cuda_mps_xla_and_jax_values_are_on_a_device_and_numbers_and_cpu_tensors_are_not(
    value: object, expected: bool
) -> None:
    assert is_on_device(value) is expected


def test_numpy_scalars_and_arrays_are_read_at_once() -> None:
    numpy = pytest.importorskip("numpy")
    assert not is_on_device(numpy.float32(1.5))
    assert not is_on_device(numpy.array(1.5))


def test_a_value_is_taken_out_of_its_graph_and_copied() -> None:
    class Graph:
        def __init__(self, trace: tuple[str, ...] = ()) -> None:
            self.trace = trace

        def detach(self) -> Graph:
            return Graph((*self.trace, "detach"))

        def clone(self) -> Graph:
            return Graph((*self.trace, "clone"))

    assert hold(Graph()).trace == ("detach", "clone")
    assert hold(1.5) == 1.5


# -- the call ---------------------------------------------------------------------------------------------------


def test_log_returns_at_once_and_never_reads_a_device_in_the_callers_thread(
    captured: testing.Captured, gate: threading.Event
) -> None:
    tensors = [Tensor(float(step), gate) for step in range(100)]
    with metriclog.init("exp") as run:
        begin_s = time.monotonic()
        for step, tensor in enumerate(tensors):
            run.log({"loss": tensor}, step)
        assert time.monotonic() - begin_s < AT_ONCE_S
        gate.set()
    assert captured.curve("loss") == [(step, float(step)) for step in range(100)]
    readers = {name for tensor in tensors for reader in (tensor, *tensor.clones) for name in reader.readers}
    assert readers == {"metriclog-device"}


def test_the_other_metrics_of_a_call_are_journaled_at_once_and_the_value_follows_with_the_same_step_and_time(
    captured: testing.Captured, gate: threading.Event
) -> None:
    with metriclog.init("exp") as run:
        run.log({"loss": Tensor(0.5, gate), "lr": 0.1, "acc": 3}, 7, model="m2")
        assert (captured.curve("lr"), captured.curve("acc"), captured.curve("loss")) == ([(7, 0.1)], [(7, 3.0)], [])
        run.log({"lr": 0.2}, 8)
        gate.set()
    assert captured.curve("loss") == [(7, 0.5)]
    points = {point.tags["metric"]: point for point in captured.points() if point.fields.get("step") == 7}
    assert len({points[name].time_ns for name in ("loss", "lr", "acc")}) == 1
    assert {points[name].tags["model"] for name in ("loss", "lr", "acc")} == {"m2"}


def test_a_given_time_stamp_is_the_values_too(captured: testing.Captured, gate: threading.Event) -> None:
    gate.set()
    with metriclog.init("exp") as run:
        run.log({"loss": Tensor(0.5, gate)}, 1, timestamp=1_700_000_000.0)
    (point,) = [point for point in captured.points() if point.tags.get("metric") == "loss"]
    assert point.time_ns == 1_700_000_000_000_000_000


def test_a_value_changed_in_place_after_the_call_is_journaled_as_it_was(
    captured: testing.Captured, gate: threading.Event
) -> None:
    copied, shared = Tensor(0.5, gate), Tensor(0.5, gate, can_clone=False)
    with metriclog.init("exp") as run:
        run.log({"copied": copied, "shared": shared}, 1)
        copied.zero_()
        shared.zero_()
        gate.set()
    assert captured.values("copied") == [0.5]
    assert captured.values("shared") == [0.0], "what cannot be copied is read as it is then"


def test_nan_and_infinities_of_a_device_are_kept(captured: testing.Captured, gate: threading.Event) -> None:
    gate.set()
    with metriclog.init("exp") as run:
        for value in (float("nan"), float("inf"), float("-inf")):
            run.log({"loss": Tensor(value, gate)})
    assert [repr(value) for value in captured.values("loss")] == ["nan", "inf", "-inf"]


def test_misuse_is_refused_at_the_callers_line_without_a_look_at_the_device(gate: threading.Event) -> None:
    vector = Tensor(0.5, gate)
    vector.shape = (3,)  # type: ignore[assignment]
    with (
        testing.capture(),
        metriclog.init("exp") as run,
        pytest.raises(MetricValueError, match="not a Tensor of shape"),
    ):
        run.log({"loss": vector})
    assert vector.readers == []


# -- a device in trouble ----------------------------------------------------------------------------------------


class Broken(Tensor):
    """Its device is gone."""

    def __init__(self) -> None:
        super().__init__(0.5, threading.Event(), can_clone=False)

    def __float__(self) -> float:
        raise RuntimeError("CUDA error: device-side assert triggered")


def test_a_value_that_cannot_be_read_is_counted_as_dropped_and_said_and_the_others_are_kept(
    captured: testing.Captured, gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    gate.set()
    with metriclog.init("exp") as run:
        receipt = run.log({"loss": Broken(), "norm": Tensor(2.0, gate)}, 1)
        lost = run.log({"loss": Broken()}, 2)
    assert (captured.values("norm"), captured.values("loss")) == ([2.0], [])
    assert run.stats()["dropped"] == 2
    assert "metric 'loss' could not be read from its device: CUDA error" in caplog.text
    assert isinstance(receipt.exception(), NotDeliveredError)  # offline
    assert isinstance(lost.exception(), MetricValueError)


def test_a_device_that_never_answers_bounds_what_is_held_and_counts_the_rest(
    captured: testing.Captured, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deferred, "MAX_WAITING", 10)
    run = metriclog.init("exp")
    receipts = [run.log({"loss": Tensor(1.0, gate), "norm": Tensor(2.0, gate)}) for _ in range(30)]
    assert run.stats()["dropped"] == 2 * 20
    assert isinstance(receipts[-1].exception(), MetricValueError)
    gate.set()
    run.finish()
    assert len(captured.values("loss")) == len(captured.values("norm")) == 10


def test_flush_and_finish_wait_for_a_device_no_longer_than_told_and_count_what_they_leave(
    captured: testing.Captured, gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    run = metriclog.init("exp")
    run.log({"lr": 0.1}, 0)
    receipts = [run.log({"loss": Tensor(1.0, gate), "norm": Tensor(2.0, gate)}, step) for step in range(3)]
    begin_s = time.monotonic()
    assert not run.flush(0.2)
    run.finish(timeout_s=0.2)
    assert time.monotonic() - begin_s < 0.4 + AT_ONCE_S
    assert "6 values were still on their device at the end; they are dropped" in caplog.text
    gate.set()  # the read under way comes to its end now, too late
    for receipt in receipts:
        assert not receipt.wait(LIMIT_S)
        with pytest.raises(MetricValueError, match="the run ended before this value could be read"):
            receipt.result(LIMIT_S)
    ended(threads())
    assert (captured.values("lr"), captured.values("loss"), captured.values("norm")) == ([0.1], [], [])
    stats = run.stats()
    assert (stats["dropped"], stats["accepted"]) == (6, 6 + len(captured.points()))


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "metriclog-device"]


def ended(reading: list[threading.Thread]) -> None:
    for thread in reading:
        thread.join(LIMIT_S)
        assert not thread.is_alive()


def test_the_thread_that_reads_ends_with_its_run(captured: testing.Captured, gate: threading.Event) -> None:
    gate.set()
    for _ in range(5):
        with metriclog.init("exp") as run:
            run.log({"loss": Tensor(1.0, gate)})
            reading = threads()
        ended(reading)
    assert threads() == []


# -- receipts ---------------------------------------------------------------------------------------------------


@pytest.fixture
def online() -> Iterator[metriclog.Run]:
    """A run whose server takes everything."""
    with serving(says(204)) as server:
        settings = Settings(url=server.url, token="t", flush_interval_s=0.01)  # type: ignore[arg-type]
        with metriclog.init("exp", settings=settings) as run:
            yield run


def test_a_receipt_waits_for_the_device_and_then_for_the_server(online: metriclog.Run, gate: threading.Event) -> None:
    receipt = online.log({"loss": Tensor(0.5, gate), "lr": 0.1})
    assert not receipt.wait(0.05)
    assert not receipt.delivered
    assert receipt.exception() is None
    with pytest.raises(NotDeliveredError, match="not on the server"):
        receipt.result(0.05)
    gate.set()
    assert receipt.wait(LIMIT_S)
    assert receipt.delivered
    receipt.result(0)


def test_a_receipt_can_be_awaited_before_and_after_the_device_has_answered(
    online: metriclog.Run, gate: threading.Event
) -> None:
    async def go() -> None:
        receipts = [online.log({"loss": Tensor(float(step), gate)}) for step in range(3)]
        waiting = [asyncio.ensure_future(awaited(receipt)) for receipt in receipts]
        await asyncio.sleep(0)
        assert not any(one.done() for one in waiting)
        gate.set()
        await asyncio.wait_for(asyncio.gather(*waiting), LIMIT_S)
        await asyncio.wait_for(awaited(receipts[0]), LIMIT_S)
        assert all(receipt.delivered for receipt in receipts)

    asyncio.run(go())


async def awaited(receipt: metriclog.Receipt) -> None:
    await receipt


def test_a_receipt_of_an_offline_run_does_not_wait_for_the_device(
    captured: testing.Captured, gate: threading.Event
) -> None:
    with metriclog.init("exp") as run:
        receipt = run.log({"loss": Tensor(0.5, gate)})
        begin_s = time.monotonic()
        assert not receipt.wait()
        assert time.monotonic() - begin_s < AT_ONCE_S
        gate.set()


def test_a_forked_child_has_no_part_in_values_its_parent_logged(tmp_path: Any) -> None:
    done = python(
        """
    import os, threading, metriclog
    from tests.test_deferred import Tensor
    gate = threading.Event()
    run = metriclog.init("exp", run_id="r")
    receipt = run.log({"parent": Tensor(0.5, gate)}, 1)
    pid = os.fork()
    if pid == 0:
        assert not receipt.wait(20.0)
        gate.set()
        run.log({"child": Tensor(1.5, gate)}, 2)
        run.finish()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    gate.set()
    """,
        dir=str(tmp_path),
    )
    assert (done.returncode, done.stderr) == (0, "")
    captured = testing.Captured(tmp_path)
    assert (captured.curve("parent"), captured.curve("child")) == ([(1, 0.5)], [(2, 1.5)])


def test_at_the_end_of_the_interpreter_values_are_read_and_new_ones_are_no_trouble(tmp_path: Any) -> None:
    """Registered after `init`, so it is called before the run is finished; a thread may not be startable any more."""
    done = python(
        """
    import atexit, threading, metriclog
    from tests.test_deferred import Tensor
    gate = threading.Event()
    gate.set()
    run = metriclog.init("exp", run_id="r")
    atexit.register(lambda: run.log({"late": Tensor(0.5, gate), "lr": 0.1}, 1))
    """,
        dir=str(tmp_path),
    )
    assert (done.returncode, done.stderr) == (0, "")
    captured = testing.Captured(tmp_path)
    assert captured.curve("lr") == [(1, 0.1)]
    assert captured.curve("late") == [(1, 0.5)] or sys.version_info >= (3, 12)


# -- real tensors -----------------------------------------------------------------------------------------------


def test_torch_tensors_on_the_cpu_are_read_at_once(captured: testing.Captured) -> None:
    torch = pytest.importorskip("torch")
    weight = torch.tensor(2.0, requires_grad=True)
    values = [torch.tensor(0.5), torch.tensor(3), torch.tensor(True), weight * 3, torch.tensor(0.25).bfloat16()]
    with metriclog.init("exp") as run:
        for value in values:
            run.log({"loss": value})
            assert not threads()
        assert captured.values("loss") == [0.5, 3.0, 1.0, 6.0, 0.25]
        with pytest.raises(MetricValueError, match="of shape"):
            run.log({"loss": torch.zeros(3)})
