"""Values that live on an accelerator: kept as references by `log()`, read by a thread of their own.

Reading such a value waits for the device, which would stop the training thread. So `log()` gives time stamp and step at
once, and the value reaches the journal when it has been read: until then it does not survive kill -9.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from metriclog.errors import JournalError, MetricValueError
from metriclog.points import as_number
from metriclog.receipts import Delivery, Receipt

logger = logging.getLogger("metriclog")

MAX_WAITING = 10_000  # calls; a device that hangs must not fill the memory. More are dropped and counted.

Append = Callable[[dict[str, float], int, int], int]


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

    __slots__ = ("_read",)

    def __init__(self, delivery: Delivery) -> None:
        super().__init__(delivery, 1 << 62)
        self._read = threading.Event()

    def settle(self, delivery: Delivery, position: int) -> None:
        """The values are in the journal, or will never be: then `delivery` says why."""
        self._delivery, self._position = delivery, position
        self._read.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the device and then for the server; see `Receipt.wait`."""
        start_s = time.monotonic()
        if not self._read.wait(timeout_s):
            return False
        return super().wait(None if timeout_s is None else max(0.0, timeout_s - (time.monotonic() - start_s)))

    def result(self, timeout_s: float | None = None) -> None:
        """Wait for the device and then for the server; see `Receipt.result`."""
        self._read.wait(timeout_s)
        super().result(timeout_s)


@dataclass(frozen=True, slots=True)
class _Waiting:
    values: dict[str, Any]
    step: int
    time_ns: int
    append: Append
    receipt: DeferredReceipt


class DeferredReads:
    """The queue and its thread, which starts with the first value."""

    def __init__(self, lose: Callable[[int], None]) -> None:
        self._lose = lose
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._unread = 0
        self._thread: threading.Thread | None = None

    def put(self, values: dict[str, Any], step: int, time_ns: int, append: Append, delivery: Delivery) -> Receipt:
        """Queue values of one call; `append(numbers, step, time_ns)` will put them into the journal."""
        receipt = DeferredReceipt(delivery)
        with self._changed:
            if self._unread >= MAX_WAITING:
                self._lose(len(values))
                receipt.settle(Delivery(verdict=MetricValueError("the device is too slow: value dropped")), 1)
                return receipt
            self._waiting.append(_Waiting(values, step, time_ns, append, receipt))
            self._unread += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="metriclog-device", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return receipt

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything put so far has been read; False at the deadline."""
        with self._changed:
            return self._changed.wait_for(lambda: self._unread == 0, timeout_s)

    def give_up(self) -> int:
        """Count what is still unread as dropped; nothing is read afterwards. Returns how many values."""
        with self._changed:
            left = sum(len(item.values) for item in self._waiting)
            self._waiting.clear()
        if left:
            self._lose(left)
        return left

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                item = self._waiting[0]
            self._read(item)
            with self._changed:
                if self._waiting and self._waiting[0] is item:
                    self._waiting.popleft()
                self._unread -= 1
                self._changed.notify_all()

    def _read(self, item: _Waiting) -> None:
        numbers: dict[str, float] = {}
        for name, value in item.values.items():
            try:
                numbers[name] = as_number(value, name)
            except Exception as error:  # noqa: BLE001 - a device can fail in any way; the value is lost, and said so
                self._lose(1)
                logger.warning("metriclog: metric %r could not be read from its device: %s", name, error)
        try:
            position = item.append(numbers, item.step, item.time_ns) if numbers else 0
            item.receipt.settle(item.receipt._delivery, position)
        except JournalError as error:
            self._lose(len(numbers))
            item.receipt.settle(Delivery(verdict=error), 1)
