"""MLflow's names for logging, on top of `log` and `log_params`, for hands that know them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, SupportsFloat

from metriclog.receipts import Receipt

Dataset = str | tuple[str, str]


class MlflowSpellings:
    """`log_metric`, `log_metrics`, `log_batch`. Time stamps are in seconds here, unlike MLflow's milliseconds."""

    def log(
        self,
        metrics: Mapping[str, SupportsFloat | Mapping[str, Any]],
        step: int | None = None,
        *,
        timestamp: object = None,
        model: str | None = None,
        dataset: Dataset | None = None,
    ) -> Receipt:
        """Log metrics of one step."""
        raise NotImplementedError

    def log_params(self, params: Mapping[str, object]) -> Receipt:
        """Store parameters."""
        raise NotImplementedError

    def log_metric(
        self,
        key: str,
        value: SupportsFloat,
        step: int | None = None,
        timestamp: object = None,
        model: str | None = None,
        dataset: Dataset | None = None,
    ) -> Receipt:
        """`log({key: value}, step)`. `timestamp` is in seconds since 1970 or an aware datetime."""
        return self.log({key: value}, step, timestamp=timestamp, model=model, dataset=dataset)

    def log_metrics(
        self, metrics: Mapping[str, SupportsFloat], step: int | None = None, timestamp: object = None
    ) -> Receipt:
        """`log(metrics, step)`. `timestamp` is in seconds since 1970 or an aware datetime."""
        return self.log(metrics, step, timestamp=timestamp)

    def log_batch(
        self,
        metrics: Mapping[str, SupportsFloat] | Iterable[Any] = (),
        params: Mapping[str, object] | Iterable[Any] = (),
        tags: Mapping[str, object] | Iterable[Any] = (),
    ) -> Receipt:
        """Log many at once, as MLflow's client does. Returns the receipt of the last record.

        metrics: a mapping, or MLflow `Metric` objects (their time stamp is in ms), or tuples
            (key, value[, step[, timestamp in s]]). params, tags: mappings, pairs, or objects with `.key`, `.value`.
        Tags given here describe the run: they are stored as parameters named `tags/<key>`, because the tag set of a
        series cannot change.
        """
        described = {f"tags/{key}": str(value) for key, value in _pairs(tags)}
        receipt = self.log_params({**dict(_pairs(params)), **described})
        if isinstance(metrics, Mapping):
            return self.log(metrics) if metrics else receipt
        for key, value, step, timestamp in map(_metric_item, metrics):
            receipt = self.log_metric(key, value, step, timestamp)
        return receipt


def _metric_item(item: Any) -> tuple[str, Any, int | None, object]:
    """(key, value, step, timestamp in s) of a tuple or of MLflow's Metric, whose time stamp is in ms."""
    if isinstance(item, tuple):
        key, value, step, timestamp, *_ = (*item, None, None, None, None)
        return key, value, step, timestamp
    stamp = getattr(item, "timestamp", None)
    return item.key, item.value, getattr(item, "step", None), None if stamp is None else stamp / 1000


def _pairs(items: Any) -> Iterable[tuple[str, object]]:
    if isinstance(items, Mapping):
        return items.items()
    return [item if isinstance(item, tuple) else (item.key, item.value) for item in items]
