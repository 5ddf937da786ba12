"""Every InfluxQL text that metriclog's own code asks, and the quoting it needs. What the dashboards ask is in
`dashboard_queries`.

Pure text in, text out. Only forms that InfluxDB 1.8, 2 and 3 and openGemini share are used: no Flux, no `LIMIT` beside
`GROUP BY`, no pattern that matches the empty string, no `now()`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

# The InfluxQL scanner reads NUL as the end of the text and a carriage return as a newline.
_UNQUOTABLE = re.compile(r"[\n\r\0]")
_REGEX_SPECIAL = re.compile(r"[\\^$*+?.()|\[\]{}/]")


def quote_identifier(name: str) -> str:
    """`name` as a quoted identifier: a measurement, tag key or field key.

    Raises ValueError if it holds a newline, a carriage return or NUL, which InfluxQL cannot express.
    """
    return _quoted(name, '"')


def quote_string(value: str) -> str:
    """`value` as a string literal, for `"tag" = …`. Raises ValueError as `quote_identifier` does."""
    return _quoted(value, "'")


def match_regex(literal: str) -> str:
    """A regex literal that matches exactly `literal`, for `"tag" =~ …`.

    Raises ValueError as `quote_identifier` does, and for an empty text: `/^$/` means "series without the tag" to one
    server and "all series" to another.
    """
    if not literal:
        raise ValueError("a regex that matches the empty text is not portable; compare with = '' instead")
    _refuse_unquotable(literal)
    return "/^" + _REGEX_SPECIAL.sub(r"\\\g<0>", literal) + "$/"


def _quoted(text: str, quote: str) -> str:
    _refuse_unquotable(text)
    return quote + text.replace("\\", "\\\\").replace(quote, "\\" + quote) + quote


def _refuse_unquotable(text: str) -> None:
    if _UNQUOTABLE.search(text):
        raise ValueError(f"{text!r} holds a newline, a carriage return or NUL: InfluxQL has no way to write it")


# --- What the reader asks -------------------------------------------------------------------------------------------

_RUN_FIELDS = ("status", "started", "ended", "steps", "running", "attempt", "to", "host", "pid")


def runs(experiment: str | None = None) -> str:
    """The newest state of each run: one series per experiment and run, with one row.

    Columns: status, started and ended (epoch ms), steps, running (1 or 0), attempt, to ("now" or epoch ms), host, pid.
    """
    fields = ", ".join(f"last({quote_identifier(name)}) AS {quote_identifier(name)}" for name in _RUN_FIELDS)
    return f'SELECT {fields} FROM "runs"{_where(experiment=experiment)} GROUP BY "experiment", "run"'


def params(run: str | None = None, *, experiment: str | None = None) -> str:
    """Every value each parameter ever had: one series per experiment, run and param, rows by time; the last one counts.

    Columns: number, text; exactly one of them is set. All rows, because the `last()` of two columns does not say which
    of them is newer when a parameter turned from a number into a text.
    """
    where = _where(experiment=experiment, run=run)
    return f'SELECT "number", "text" FROM "params"{where} GROUP BY "experiment", "run", "param"'


def metric_names(run: str, *, experiment: str | None = None) -> str:
    """The metric names of one run, as rows `key, value`."""
    # InfluxDB 3 looks at the last day only, unless the query names a time.
    where = f"{_where(experiment=experiment, run=run)} AND time >= 0ms"
    return f'SHOW TAG VALUES FROM "metrics" WITH KEY = "metric"{where}'


def curve(
    run: str,
    metric: str,
    *,
    experiment: str | None = None,
    after_time_ns: int | None = None,
    limit: int | None = None,
) -> str:
    """Every point of one metric of one run, in the order of time, over all ranks, models and data sets.

    Columns: step, value, elapsed (ms), nonfinite (1 NaN, 2 +Inf, 3 −Inf; then value is null), model, dataset, rank.
    `after_time_ns` (exclusive) and `limit` page through a long curve. Ranks can share an instant, so a full page may
    end inside one: drop the rows of its last instant T and go on with `after_time_ns=T - 1`.
    """
    where = _where(experiment=experiment, run=run, metric=metric)
    after = "" if after_time_ns is None else f" AND time > {after_time_ns:d}"
    page = "" if limit is None else f" LIMIT {limit:d}"
    columns = '"step", "value", "elapsed", "nonfinite", "model", "dataset", "rank"'
    return f'SELECT {columns} FROM "metrics"{where}{after} ORDER BY time ASC{page}'


def nonfinite_counts(run: str | None = None, *, experiment: str | None = None) -> str:
    """How many NaN or infinite values each metric had: one series per experiment, run and metric; none where 0."""
    where = _where(experiment=experiment, run=run)
    return f'SELECT count("nonfinite") AS "nonfinite" FROM "metrics"{where} GROUP BY "experiment", "run", "metric"'


def count_values() -> str:
    """How many values the server holds: one series per experiment and run, columns value (finite) and nonfinite.

    A count of nothing is null, not 0.
    """
    counts = 'count("value") AS "value", count("nonfinite") AS "nonfinite"'
    return f'SELECT {counts} FROM "metrics" GROUP BY "experiment", "run"'


def _where(**tags: str | None) -> str:
    given = {tag: value for tag, value in tags.items() if value is not None}
    conditions = [f"{quote_identifier(tag)} = {quote_string(value)}" for tag, value in given.items()]
    return " WHERE " + " AND ".join(conditions) if conditions else ""


# --- What the proof asks --------------------------------------------------------------------------------------------

FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "metrics": ("value", "step", "elapsed", "nonfinite"),
    "params": ("number", "text"),
    "events": ("title", "text", "level", "step", "elapsed", "count", "value", "baseline", "window", "rule"),
    "runs": (*_RUN_FIELDS, "resolution"),
    "delivery": ("pending_points", "pending_bytes", "delivered", "retried", "quarantined", "dropped", "lag_s"),
}
"""Every field of each measurement, in the order that `page_of_series` selects them."""

OPTIONAL: Final[Mapping[str, frozenset[str]]] = {
    "metrics": frozenset({"value", "nonfinite"}),  # one of them
    "params": frozenset({"number", "text"}),  # one of them
    "events": frozenset({"value", "baseline", "window", "rule"}),
}
"""Fields that a point may lack; it has all others."""


def runs_in(measurement: str) -> str:
    """The runs that have a point in a measurement, as rows `key, value`."""
    # InfluxDB 3 looks at the last day only, unless the query names a time.
    return f'SHOW TAG VALUES FROM {quote_identifier(measurement)} WITH KEY = "run" WHERE time >= 0ms'


def series_of_run(measurement: str, run: str) -> str:
    """The series a run has in a measurement, each with one row: also those whose points are not as metriclog writes."""
    return f"SELECT count(*) FROM {quote_identifier(measurement)}{_where(run=run)} GROUP BY *"


def page_of_series(measurement: str, tags: Mapping[str, str], after_ns: int, limit: int) -> str:
    """Every field of the first `limit` points of one series after an instant, in the order of time.

    `tags` must name every tag of the measurement, with '' for those that the series does not have.
    """
    names = ", ".join(map(quote_identifier, FIELDS[measurement]))
    where = f"{_where(**tags)} AND time > {after_ns:d}"
    return f"SELECT {names} FROM {quote_identifier(measurement)}{where} ORDER BY time ASC LIMIT {limit:d}"
