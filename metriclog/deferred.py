"""Values that live on an accelerator: kept as references by `log()`, read by a thread of their own.

Reading such a value waits for the device, which would stop the training thread. So `log()` gives time stamp and step at
once, and the value reaches the journal when it has been read: until then it does not survive kill -9.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from metriclog.errors import JournalError, MetricValueError, RunFinishedError
from metriclog.points import as_number
from metriclog.receipts import Delivery, Receipt

logger = logging.getLogger("metriclog")

LOOK_S = 1.0
MAX_WAITING = 10_000  # calls; a device that hangs must not fill the memory. More are dropped and counted.

Append = Callable[[dict[str, float]], Receipt]


def is_on_device(value: object) -> bool:
    """Whether reading this value would wait for a device: a CUDA, MPS or XLA tensor, a jax array off the CPU."""
    device = getattr(value, "device", None)
    if device is None or isinstance(device, str):
        return device not in (None, "cpu")
    kind = getattr(device, "type", None) or getattr(device, "platform", None)
    return isinstance(kind, str) and kind not in ("cpu", "meta")


def hold(value: Any) -> Any:
    """The value as it is now: out of the graph, and copied on its device, because `x.zero_()` may follow."""
    for name in ("detach", "clone"):
        method = getattr(value, name, None)
        value = method() if callable(method) else value
    return value


class DeferredReceipt(Receipt):
    """A receipt whose position in the journal is known once the values have been read."""

    __slots__ = ("_calls", "_read")

    def __init__(self, delivery: Delivery) -> None:
        super().__init__(delivery, 1 << 62)
        self._read = threading.Event()
        self._calls: list[Callable[[], None]] = []

    def settle(self, receipt: Receipt) -> None:
        """The values are in the journal, or will never be: from now on this receipt is like that one."""
        self._delivery, self._position = receipt._delivery, receipt._position
        self._read.set()
        for call in self._calls:
            call()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the device and then for the server; see `Receipt.wait`."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._wait_for_device(deadline_s)
        return super().wait(None if deadline_s is None else max(0.0, deadline_s - time.monotonic()))

    def result(self, timeout_s: float | None = None) -> None:
        """Wait for the device and then for the server; see `Receipt.result`."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._wait_for_device(deadline_s)
        super().result(None if deadline_s is None else max(0.0, deadline_s - time.monotonic()))

    def _wait_for_device(self, deadline_s: float | None) -> None:
        left_s = LOOK_S
        while left_s > 0 and not self._delivery.settled:  # in a forked child nobody reads, and it is settled
            left_s = LOOK_S if deadline_s is None else min(LOOK_S, deadline_s - time.monotonic())
            if self._read.wait(max(0.0, left_s)):
                return

    async def _wait_async(self) -> None:
        import asyncio  # only somebody who awaits pays for it

        if not self._read.is_set() and not self._delivery.settled:
            loop, arrived = asyncio.get_running_loop(), asyncio.Event()

            def arrive() -> None:
                with contextlib.suppress(RuntimeError):  # whoever waited may have left and closed the loop
                    loop.call_soon_threadsafe(arrived.set)

            self._calls.append(arrive)
            if not self._read.is_set():
                await arrived.wait()
        await super()._wait_async()


@dataclass(slots=True)
class _Waiting:
    values: dict[str, Any]
    append: Append
    receipt: DeferredReceipt
    given_up: bool = False


class DeferredReads:
    """The queue and its thread, which starts with the first value and ends with `give_up`."""

    def __init__(self, lose: Callable[[int], None]) -> None:
        self._lose = lose
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._unread = 0
        self._ended = False
        self._thread: threading.Thread | None = None

    def put(self, values: dict[str, Any], append: Append, delivery: Delivery) -> Receipt:
        """Queue values of one call; `append(numbers)` will put them into the journal."""
        item = _Waiting(values, append, DeferredReceipt(delivery))
        with self._changed:
            if self._ended or self._unread >= MAX_WAITING:
                self._drop(item, "the device is too slow: value dropped")
                return item.receipt
            try:
                self._start()
            except RuntimeError as error:  # the interpreter shuts down
                self._drop(item, str(error))
                return item.receipt
            self._waiting.append(item)
            self._unread += 1
            self._changed.notify_all()
        return item.receipt

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything put so far has been read; False at the deadline."""
        with self._changed:
            return self._changed.wait_for(lambda: self._unread == 0, timeout_s)

    def give_up(self) -> int:
        """Count what is still unread as dropped; nothing is read afterwards. Returns how many values."""
        with self._changed:
            self._ended = True
            left = list(self._waiting)
            self._waiting.clear()
            self._unread = 0
            for item in left:
                self._drop(item, "the run ended before this value could be read from its device")
            self._changed.notify_all()
        return sum(len(item.values) for item in left)

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._loop, name="metriclog-device", daemon=True)
            thread.start()
            self._thread = thread

    def _drop(self, item: _Waiting, why: str) -> None:
        item.given_up = True
        self._lose(len(item.values))
        item.receipt.settle(Receipt(Delivery(verdict=MetricValueError(why)), 1))

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting) or self._ended)
                if self._ended:
                    return
                item = self._waiting[0]
            numbers = self._read(item)
            with self._changed:
                if item.given_up:
                    return
                self._waiting.popleft()
            self._append(item, numbers)
            with self._changed:
                self._unread -= 1
                self._changed.notify_all()

    def _read(self, item: _Waiting) -> dict[str, float]:
        numbers: dict[str, float] = {}
        for name, value in item.values.items():
            try:
                numbers[name] = as_number(value, name)
            except Exception as error:  # noqa: BLE001 - a device can fail in any way; the value is lost, and said so
                logger.warning("metriclog: metric %r could not be read from its device: %s", name, error)
        return numbers

    def _append(self, item: _Waiting, numbers: dict[str, float]) -> None:
        failed = len(item.values) - len(numbers)
        if failed:
            self._lose(failed)
        try:
            item.receipt.settle(item.append(numbers) if numbers else _NEVER)
        except RunFinishedError as error:  # it took longer than the end of the run
            self._lose(len(numbers))
            item.receipt.settle(Receipt(Delivery(verdict=error), 1))
        except JournalError as error:  # policy "raise"; counted
            item.receipt.settle(Receipt(Delivery(verdict=error), 1))


_NEVER = Receipt(Delivery(verdict=MetricValueError("the value could not be read from its device")), 1)
