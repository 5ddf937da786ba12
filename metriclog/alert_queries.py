"""Every InfluxQL text that Grafana's alert rules ask, and how long they look back. Pure text.

Each answers with one number a series: a run, or a metric of a run. What is not there cannot be tested in Grafana, so no
rule asks for absence: a run is dead where its newest heartbeat is the newest of a minute ago as well. All are asked
every minute about all runs, so none reads raw points but those with the field `nonfinite` and the newest of each.
Portable as `dashboard_queries` are; of Grafana's variables only `$timeFilter` exists here.
"""

from __future__ import annotations

from typing import Final

from metriclog.dashboard_queries import SILENT_AFTER_MS

RECENT_S: Final = 900
"""How long what happened once keeps its alert up."""
SILENT_S: Final = SILENT_AFTER_MS // 1000
"""Without a heartbeat for so long a run is taken for killed, by the dashboards too."""
DAY_S: Final = 86_400
"""A run without a sign of life for longer is asked about no more."""
STALLED_S: Final = 600
"""A run that has logged nothing for so long, and for STALLED_INTERVALS times its usual interval, is stalled."""
STALLED_INTERVALS: Final = 5
DIVERGED_S: Final = 300
"""Over so long the newest values of a loss are averaged."""
JUDGED_FROM: Final = 100
"""Values that a loss must have before it is judged."""

_RUN: Final = '"experiment", "run"'
_METRIC: Final = f'{_RUN}, "metric"'
_PROCESS: Final = f'{_RUN}, "host", "rank"'
_GAP: Final = "[^a-z0-9]"
_LOSS: Final = f"(?i)(?:^|{_GAP})(?:loss|nll)(?:{_GAP}|$)"
# Over-fitting is no divergence; losses of actors, adversaries and regularisers rise when all is well.
_RISES: Final = (
    "val|valid|validation|eval|evaluation|test|dev|holdout|value|vf|critic|policy|pg|actor|alpha|entropy|ppo|g|gen|"
    "generator|d|disc|discriminator|adv|adversarial|gan|kl|kld|vq|commit|commitment|codebook|aux|auxiliary|balance|"
    "balancing|router|z|reg|regularizer|regularization|penalty|decay"
)
_MAY_RISE: Final = f"(?i)(?:^|{_GAP})(?:{_RISES})(?:{_GAP}|$)"
_OF_LOSSES: Final = f'"metric" =~ /{_LOSS}/ AND "metric" !~ /{_MAY_RISE}/ AND $timeFilter'

# --- Runs -------------------------------------------------------------------------------------------------------------


def newest_of_run(field: str) -> str:
    """The newest value of a number in the run's state: running (1 or 0), started, ended (epoch ms), steps, attempt."""
    return f'SELECT last("{field}") FROM "runs" WHERE $timeFilter GROUP BY {_RUN}'


UNFINISHED: Final = f'SELECT last("ended") FROM "runs" WHERE "status" <> \'finished\' AND $timeFilter GROUP BY {_RUN}'
"""The newest sign of life beside a good end. It is the newest of all where a run goes on, or did not end well."""

# --- Values that are not finite ---------------------------------------------------------------------------------------

NONFINITE: Final = f'SELECT count("nonfinite") FROM "metrics" WHERE $timeFilter GROUP BY {_METRIC}'
"""How many, over all ranks. No series for a metric without any, which costs next to nothing."""
NONFINITE_KIND: Final = f'SELECT last("nonfinite") FROM "metrics" WHERE $timeFilter GROUP BY {_METRIC}'
"""What the newest was: 1 NaN, 2 +Inf, 3 -Inf."""
NONFINITE_STEP: Final = (
    'SELECT "step" FROM (SELECT first("nonfinite") AS "first", "step" FROM "metrics" WHERE $timeFilter '
    f"GROUP BY {_METRIC}) GROUP BY {_METRIC}"
)
"""The step of the first."""

# --- Divergence -------------------------------------------------------------------------------------------------------


def _of_series(inner: str, outer: str, where: str = "") -> str:
    """A number of each series of a loss that is judged; those of a metric are taken together by `outer`."""
    back = 'mean("last") - last("min") / 2 - last("max") / 2'
    columns = f'{inner} AS "number", last("count") AS "count", {back} AS "back"'
    of_each = f'SELECT {columns} FROM "summary" WHERE {_OF_LOSSES} GROUP BY *'
    return f'SELECT {outer}("number") FROM ({of_each}) WHERE "count" >= {JUDGED_FROM}{where} GROUP BY {_METRIC}'


EXCESS: Final = _of_series('mean("last") - 2 * last("mean") + last("min")', "max", ' AND "back" > 0')
"""Above 0: a loss is farther above its average over the whole run than its best is below it, and half the way back from
its best to its worst. No series for a loss that is not half the way back.

True of positive and negative losses alike and of any scale. Noise, whose best is some standard deviations below its
average, does not get there, nor does a restart of the learning rate. A summary knows the whole run, so five minutes of
it are enough.
"""
LOSS_NOW: Final = _of_series('mean("last")', "max")
LOSS_AVERAGE: Final = _of_series('last("mean")', "max")
LOSS_BEST: Final = _of_series('last("min")', "min")
LOSS_STEP: Final = f'SELECT last("last_step") FROM "summary" WHERE {_OF_LOSSES} GROUP BY {_METRIC}'

# --- Stalled ----------------------------------------------------------------------------------------------------------

NEWEST_POINT: Final = f'SELECT last("elapsed") FROM "metrics" WHERE $timeFilter GROUP BY {_RUN}'
"""When a run last logged, in ms after its start."""
LOGGED: Final = (
    'SELECT max("count") FROM (SELECT last("count") AS "count" FROM "summary" WHERE $timeFilter '
    f"GROUP BY {_METRIC}) GROUP BY {_RUN}"
)
"""How many values its most frequent metric has: as often it has logged."""

# --- Delivery and events ----------------------------------------------------------------------------------------------


def lost(field: str) -> str:
    """By how much `dropped` or `quarantined` grew, over all processes; one that begins anew at 0 has lost nothing."""
    inner = f'SELECT non_negative_difference("{field}") AS "lost" FROM "delivery" WHERE $timeFilter GROUP BY {_PROCESS}'
    return f'SELECT sum("lost") FROM ({inner}) GROUP BY {_RUN}'


def critical_events(function: str, field: str) -> str:
    """A number of the critical events of a run, by metric and kind. Non-finite values have a rule of their own."""
    return (
        f'SELECT {function}("{field}") FROM "events" WHERE "level" = \'critical\' AND "kind" <> \'nonfinite\' '
        f'AND $timeFilter GROUP BY {_METRIC}, "kind"'
    )
