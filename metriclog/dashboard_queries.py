"""Every InfluxQL text that the dashboards ask, with Grafana's variables in it.

Only forms that InfluxDB 1.8, 2 and 3 and openGemini share are used: no Flux, no `LIMIT` beside `GROUP BY`, no `now()`.
A variable always stands as `/^${name:regex}$/`: Grafana's default format leaves a value that starts with a digit
unescaped. `$timeFilter` becomes the dashboard's time range; around a subquery it stands inside, where servers heed it.

The variables: experiment, run, metric, model, dataset, status, rank are what is chosen; `run_drawn` and `metric_drawn`
are as many of the chosen ones as a page can draw; `quantity` is a metric's name without its split; `resolution` is a
pattern of the measurement to chart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

RUNS_DRAWN: Final = 20
METRICS_DRAWN: Final = 12
RANKS_DRAWN: Final = 32
METRICS_LISTED: Final = 8
"""So many lines a panel, panels a page and columns a table are shown in a few seconds and can still be told apart."""

SILENT_AFTER_MS: Final = 60_000
"""A run that has given no sign of life for so long was probably killed: four heartbeats, as the reader has it."""

X_AXES: Final[Mapping[str, str]] = {
    "step": '"step"',
    # Rounded: unrounded times differ from run to run, and each different x is one more row for the browser to join.
    "seconds since start": 'round("elapsed" / 100) / 10',
    "minutes since start": 'round("elapsed" / 6000) / 10',
    "hours since start": 'round("elapsed" / 36000) / 100',
}
"""The x axes of a curve: label → what to select. `elapsed` is in ms since the run began."""

RESOLUTIONS: Final[Mapping[str, str]] = {
    # In brackets, so that it never equals another choice, which Grafana would then keep for good.
    "Auto": "(${auto:raw})",
    "Every step": "metrics",
    **{f"Every {10**level} steps": f"metrics_{10**level}" for level in range(1, 7)},
}
"""Label → pattern of the measurement to chart. An empty pattern matches no measurement, which is no error."""


def _chosen(tag: str, variable: str | None = None) -> str:
    return f'"{tag}" =~ /^${{{variable or tag}:regex}}$/'


def _of(run: str) -> str:
    """The condition for the runs in the variable `run`, in the time range."""
    return f"{_EXPERIMENT} AND {_chosen('run', run)} AND $timeFilter"


_EXPERIMENT = _chosen("experiment")
# All of most tags is `.*`, which holds for series without the tag as well.
_MADE_OF = f"{_chosen('model')} AND {_chosen('dataset')}"
# Ranks share x, and only one row per x and run can be drawn. '' is a run without ranks.
_FIRST_RANK = "(\"rank\" = '0' OR \"rank\" = '')"
# Drops the rows of NaN and infinite points, whose value is null: Grafana would draw a null as 0.
_FINITE = '"value" = "value"'
_DRAWN = _chosen("metric", "metric_drawn")
_FROM_CURVES = "FROM /^${resolution:raw}$/ WHERE"
_X = 'SELECT ${x:raw} AS "x"'

# --- Menus ------------------------------------------------------------------------------------------------------------

# One column each: Grafana takes the values of all columns for choices.
# Newest first: a selector alone keeps the time of its point, by which the outer query sorts.
EXPERIMENT_MENU: Final = (
    'SELECT "experiment" FROM (SELECT last("started") AS "started" FROM "runs" WHERE $timeFilter '
    'GROUP BY "experiment") ORDER BY time DESC'
)
RUN_MENU: Final = (
    f'SELECT "run" FROM (SELECT last("started") AS "started" FROM "runs" WHERE {_EXPERIMENT} '
    'AND $timeFilter GROUP BY "run") ORDER BY time DESC'
)
RUNS_DRAWN_MENU: Final = (
    f'SELECT "run" FROM (SELECT last("started") AS "started" FROM "runs" WHERE {_of("run")} '
    f'GROUP BY "run") ORDER BY time DESC LIMIT {RUNS_DRAWN}'
)
# `runs` has no model and no data set: its runs are in the answer only where all of both are chosen.
RUNS_MADE_OF_MENU: Final = (
    f'SHOW TAG VALUES FROM "runs", "summary" WITH KEY = "run" WHERE {_EXPERIMENT} AND {_MADE_OF} AND $timeFilter'
)
RUNS_FOUND_MENU: Final = (
    'SELECT "run" FROM (SELECT last("status") AS "status" FROM "runs" '
    f'WHERE {_of("run_made_of")} GROUP BY "run") WHERE {_chosen("status")} ORDER BY time DESC'
)
BASELINE_MENU: Final = f'SHOW TAG VALUES FROM "runs" WITH KEY = "run" WHERE {_of("run_drawn")}'
MODEL_MENU: Final = f'SHOW TAG VALUES FROM "summary" WITH KEY = "model" WHERE {_EXPERIMENT} AND $timeFilter'
DATASET_MENU: Final = f'SHOW TAG VALUES FROM "summary" WITH KEY = "dataset" WHERE {_EXPERIMENT} AND $timeFilter'
RANKS_MENU: Final = f'SHOW TAG VALUES FROM "summary" WITH KEY = "rank" WHERE {_of("run")} LIMIT {RANKS_DRAWN}'
# Only parameters that are numbers have a place on an axis.
PARAM_MENU: Final = (
    f'SELECT "param" FROM (SELECT last("number") AS "number" FROM "params" WHERE {_of("run_drawn")} GROUP BY "param")'
)


def metric_menu(run: str) -> str:
    """The metrics of the runs in the variable `run`."""
    return f'SHOW TAG VALUES FROM "summary" WITH KEY = "metric" WHERE {_of(run)}'


def metrics_drawn_menu(run: str) -> str:
    """As many of the chosen metrics as a page can draw."""
    return f"{metric_menu(run)} AND {_chosen('metric')} LIMIT {METRICS_DRAWN}"


METRIC_LARGE_MENU: Final = f"{metric_menu('run_drawn')} AND {_chosen('metric')}"
METRICS_LISTED_MENU: Final = f"{metric_menu('run')} AND {_chosen('metric')} LIMIT {METRICS_LISTED}"


RUN_COUNT: Final = (
    'SELECT count("started") AS "count" FROM (SELECT last("started") AS "started" FROM "runs" '
    f'WHERE {_of("run_drawn")} GROUP BY "run")'
)
"""How many runs are drawn: one row, column count."""

DENSEST_METRIC: Final = (
    'SELECT "metric" FROM (SELECT max("count") AS "count", "metric" FROM (SELECT last("count") AS "count" '
    f'FROM "summary" WHERE {_of("run")} AND {_MADE_OF} AND {_FIRST_RANK} AND "last" = "last" GROUP BY "metric"))'
)
"""Of the metrics with a finite value that of which a run logged most: one row, column metric."""


def auto_resolution(run: str) -> str:
    """The measurement to chart for the longest of the runs in the variable `run`: one row, column resolution."""
    return f'SELECT "resolution" FROM (SELECT max("steps"), "resolution" FROM "runs" WHERE {_of(run)})'


# --- Tables of runs ---------------------------------------------------------------------------------------------------

_KEY = '"experiment", "run"'
_STATE = (
    '"started" AS "__started", ("ended" - "started") / 1000 AS "__duration", "steps" AS "__steps", "to" AS "__to" '
    'FROM (SELECT last("status") AS "status", last("running") AS "running", last("started") AS "started", '
    'last("ended") AS "ended", last("steps") AS "steps", last("to") AS "to" FROM "runs" WHERE '
)


def run_states(run: str) -> str:
    """The newest state of each run that has ended or shows a sign of life.

    Columns: experiment, run, __status, __started (epoch ms), __duration (s; so far, while it runs), __steps, __to
    ("now" or epoch ms: the end of a link's time range). The underscores keep them apart from parameters, which become
    columns too.
    """
    alive = f'"running" = 0 OR "ended" > ${{__to:raw}} - {SILENT_AFTER_MS}'
    return f'SELECT "status" AS "__status", {_STATE}{_of(run)} GROUP BY {_KEY}) WHERE {alive} GROUP BY {_KEY}'


def silent_runs(run: str) -> str:
    """The other runs, which say "running" but are silent: the same columns, and 0 as their status."""
    silent = f'"running" = 1 AND "ended" <= ${{__to:raw}} - {SILENT_AFTER_MS}'
    return f'SELECT "running" * 0 AS "__status", {_STATE}{_of(run)} GROUP BY {_KEY}) WHERE {silent} GROUP BY {_KEY}'


def nonfinite_counts(run: str) -> str:
    """How many values of a run, over all metrics and ranks, are NaN or infinite; no row for a run without any."""
    return f'SELECT count("nonfinite") AS "__nonfinite" FROM "metrics" WHERE {_of(run)} GROUP BY "run"'


def param_values(field: str, run: str, name: str | None = None) -> str:
    """Every value of each parameter of each run, by time; the last one counts. `field` is number or text: every value
    is one of the two. A fourth of the time of `last()` by run and parameter: a parameter has few values, mostly one.
    The column of the values has the name of the field, or `name`.
    """
    columns = f'"{field}" AS "{name or field}", "run" AS "run", "param" AS "param"'
    return f'SELECT {columns} FROM "params" WHERE {_of(run)}'


PARAMS_OF_RUN: Final = (
    f'SELECT last("number") AS "number", last("text") AS "text" FROM "params" WHERE {_of("run")} GROUP BY "param"'
)


def newest_events(limit: int) -> str:
    """The newest events of the chosen runs, the newest first."""
    columns = '"kind" AS "kind", "level", "run" AS "run", "title", "text", "step", "metric" AS "metric"'
    return f'SELECT {columns} FROM "events" WHERE {_of("run")} ORDER BY time DESC LIMIT {limit}'


# --- Final and best values --------------------------------------------------------------------------------------------


def last_values(run: str, metric: str = "metric") -> str:
    """The newest finite value of each metric of each run: columns run, metric, last. Both are names of variables."""
    where = f"{_of(run)} AND {_chosen('metric', metric)} AND {_MADE_OF} AND {_FIRST_RANK}"
    return f'SELECT last("last") AS "last" FROM "summary" WHERE {where} GROUP BY "run", "metric"'


BEST_VALUES: Final = (
    f'SELECT last("${{best:raw}}") AS "best" FROM "summary" WHERE {_of("run")} '
    f"AND {_chosen('metric', 'metric_listed')} AND {_MADE_OF} AND {_FIRST_RANK} "
    'GROUP BY "run", "metric", "model", "dataset"'
)
"""The best value of each series: a metric can have one for each model and data set. The best of these Grafana takes,
in half the time of a query around this one."""


def _final_by_run(which: str) -> str:
    where = f"{_of('run_drawn')} AND {which} AND {_MADE_OF} AND {_FIRST_RANK}"
    return f'SELECT last("last") AS "value" FROM "summary" WHERE {where} GROUP BY "run"'


_PRAISE = (
    "accuracy|reward|score|bleu|rouge|auroc|auprc|precision|recall|success|throughput|per.?sec|"
    # Short ones as words only: map is in bitmap too.
    r"(?:^|[^a-z])(?:acc|auc|f[0-9]|ap|map|m?iou|dice|r2|psnr|ssim|ndcg|mrr|hits?|wins?|returns?|elo)(?:[^a-z]|$)"
)
_BLAME = "loss|err|perplexity|ppl|cost|regret"
FINAL_BY_RUN: Final = _final_by_run(_DRAWN)
FINAL_WHERE_HIGHER_IS_BETTER: Final = _final_by_run(
    f'{_DRAWN} AND "metric" =~ /(?i){_PRAISE}/ AND "metric" !~ /(?i){_BLAME}/'
)
FINAL_WHERE_LOWER_IS_BETTER: Final = _final_by_run(
    f'{_DRAWN} AND ("metric" !~ /(?i){_PRAISE}/ OR "metric" =~ /(?i){_BLAME}/)'
)
"""The last value of one metric of each run: columns run, value. Of the latter two one has no row; which one, is guessed
by the name of the metric: a reward_loss is a loss."""


BASELINE_VALUES: Final = (
    f'SELECT last("last") AS "base" FROM "summary" WHERE {_of("baseline")} AND {_chosen("metric")} AND {_MADE_OF} '
    f'AND {_FIRST_RANK} GROUP BY "metric"'
)
_PARAM = f'"params" WHERE {_of("run_drawn")} AND {_chosen("param")}'
PARAM_BY_RUN: Final = f'SELECT last("number") AS "param" FROM {_PARAM} GROUP BY "run"'
EDGE_OF_PARAM: Final = f'SELECT max("number") AS "param", max("number") * 0 AS "edge" FROM {_PARAM}'

# --- Curves over steps ------------------------------------------------------------------------------------------------


def curves_by_run(metric: str) -> str:
    """The curves of the metric in a variable, run after run: columns run, x, value. A row a finite point of rank 0."""
    which = f"{_of('run_drawn')} AND {_chosen('metric', metric)} AND {_MADE_OF} AND {_FIRST_RANK} AND {_FINITE}"
    return f'{_X}, "value" {_FROM_CURVES} {which} GROUP BY "run"'


def _absent(names: str) -> str:
    """The lowest x of a run's curves, if the variable `names` is empty, else no row: columns x and absent, which is 0.

    No run but one without a name would end as the pattern does if there were names.
    """
    where = f'{_of("run")} AND "run" =~ /^${{run:regex}}${{{names}:regex}}$/'
    return f'SELECT min("x") AS "x", min("x") * 0 AS "absent" FROM ({_X} {_FROM_CURVES} {where})'


def _right_edge(condition: str) -> str:
    """The highest x on a chart: one row, columns x and edge, which is 0."""
    return f'SELECT max("x") AS "x", max("x") * 0 AS "edge" FROM ({_X} {_FROM_CURVES} {condition})'


EDGE_OF_RUN: Final = _right_edge(_of("run"))
EDGE_OF_METRIC: Final = _right_edge(f"{_of('run')} AND {_DRAWN}")


def edge_of_runs(metric: str) -> str:
    """The same for the metric in a variable over all runs drawn."""
    return _right_edge(f"{_of('run_drawn')} AND {_chosen('metric', metric)}")


_VALIDATION = "val|valid|validation|eval|evaluation|test|dev"
_TRAINING = "train|training"
_SPLIT = f"(?:{_TRAINING}|{_VALIDATION})"
_GAP = "[^a-z0-9]"
QUANTITY_IN_NAME: Final = f"/^(?:{_SPLIT}{_GAP})?(?<value>.+?)(?:{_GAP}{_SPLIT})?$/i"
"""For Grafana: what a metric measures, whatever the split: loss for train/loss, val_loss and Loss/test."""
TRAINING_NAME: Final = f"/^(?:{_TRAINING}){_GAP}|{_GAP}(?:{_TRAINING})$/i"
VALIDATION_NAME: Final = f"/^(?:{_VALIDATION}){_GAP}|{_GAP}(?:{_VALIDATION})$/i"
"""For Grafana: the metrics that were measured on the training data, and those that were measured on other data."""

_QUALITY = "loss|acc|err|perplexity|ppl|score|f1|auc|reward|return"
_HAS_QUANTITY = f'"metric" =~ /(?i)^{_SPLIT}{_GAP}|{_GAP}{_SPLIT}$|(?:{_QUALITY})/'
QUANTITY_MENU: Final = f"{metric_menu('run')} AND {_HAS_QUANTITY} LIMIT {2 * METRICS_DRAWN}"
_OF_QUANTITY = f'"metric" =~ /(?i)^(?:{_SPLIT}{_GAP})?${{quantity:regex}}(?:{_GAP}{_SPLIT})?$/'
_RATE = r"(?:per|\/)[^a-z0-9]*(?:s|sec|second)$"
_LEARNING_RATE = rf'"metric" =~ /(?i)(?:^|{_GAP})(?:lr|learning{_GAP}?rate)(?:{_GAP}|$)/'
_GRADIENT_NORM = rf'"metric" =~ /(?i)grad(?:ient)?s?{_GAP}?norm|norm{_GAP}?grad/'
_THROUGHPUT = rf'"metric" =~ /(?i)throughput|{_RATE}/'


def _by_metric(which: str) -> str:
    where = f"{_of('run')} AND {which} AND {_MADE_OF} AND {_FIRST_RANK} AND {_FINITE}"
    return f'{_X}, "value" {_FROM_CURVES} {where} GROUP BY "metric"'


LEARNING_RATE_MENU: Final = f"{metric_menu('run')} AND {_LEARNING_RATE} LIMIT {METRICS_DRAWN}"
GRADIENT_NORM_MENU: Final = f"{metric_menu('run')} AND {_GRADIENT_NORM} LIMIT {METRICS_DRAWN}"
RANKED_MENU: Final = f'{metric_menu("run")} AND {_chosen("metric")} AND "rank" =~ /./ LIMIT {METRICS_DRAWN}'
LEARNING_RATE_ABSENT: Final = _absent("learning_rate")
GRADIENT_NORM_ABSENT: Final = _absent("gradient_norm")
RANKS_ABSENT: Final = _absent("rank")
QUANTITY_CURVES: Final = _by_metric(_OF_QUANTITY)
LEARNING_RATE_CURVES: Final = _by_metric(_LEARNING_RATE)
GRADIENT_NORM_CURVES: Final = _by_metric(_GRADIENT_NORM)
"""One run's curves by metric: columns metric, x, value."""


def _nonfinite_marks(which: str) -> str:
    return f'{_X}, "nonfinite" * 0 AS "nonfinite" {_FROM_CURVES} {_of("run")} AND {which} AND "nonfinite" > 0'


QUANTITY_MARKS: Final = _nonfinite_marks(_OF_QUANTITY)
METRIC_MARKS: Final = _nonfinite_marks(_DRAWN)
"""Where a value was NaN or infinite, on any rank: columns x and nonfinite, which is 0."""

METRIC_CURVE: Final = (
    f'{_X}, "value" AS "mean" {_FROM_CURVES} {_of("run")} AND {_DRAWN} AND {_MADE_OF} AND {_FIRST_RANK} AND {_FINITE}'
)
# `metrics` has no min and max: beside it stands metrics_10. The other measurements have no such neighbour. Where both
# are the same, a band would be a second line beside the first.
METRIC_BAND: Final = (
    f'{_X}, "min" AS "min", "max" AS "max" FROM /^${{resolution:raw}}(_10)?$/ WHERE {_of("run")} AND {_DRAWN} '
    f'AND {_MADE_OF} AND {_FIRST_RANK} AND "min" < "max"'
)
_RANKED = _chosen("metric", "metric_ranked")
_ON_RANKS = f'"rank" =~ /./ AND {_chosen("rank")} AND {_RANKED} AND {_MADE_OF} AND {_FINITE}'
RANKS_TOGETHER: Final = f'{_X}, "value" {_FROM_CURVES} {_of("run")} AND {_ON_RANKS}'
RANKS_APART: Final = f'{RANKS_TOGETHER} GROUP BY "rank"'

# --- By the wall clock ------------------------------------------------------------------------------------------------


_ONE_RANK = f"{_MADE_OF} AND {_FIRST_RANK}"
_QUANTITY_BY_TIME = f"{_FROM_CURVES} {_of('run')} AND {_OF_QUANTITY} AND {_ONE_RANK}"
QUANTITY_BY_TIME: Final = f'SELECT "value" {_QUANTITY_BY_TIME} AND {_FINITE} GROUP BY "metric"'
QUANTITY_EDGE_BY_TIME: Final = f'SELECT max("value") * 0 AS "edge" {_QUANTITY_BY_TIME}'
THROUGHPUT_BY_TIME: Final = (
    f'SELECT "value" {_FROM_CURVES} {_of("run")} AND {_THROUGHPUT} AND {_ONE_RANK} AND {_FINITE} GROUP BY "metric"'
)
# Between one bucket of steps and the next, not between heartbeats, which know the highest step only: a run that was
# resumed from an older step would stand still for as long as it takes to get there again. `metrics` has no buckets, so
# there are those of ten steps. Each takes the time of its last point, so the time between two is exact.
_BUCKETS = (
    "FROM /^${resolution:raw}(_10)?$/ "
    f'WHERE {_of("run")} AND {_chosen("metric", "densest")} AND {_ONE_RANK} AND "min" <= "max"'
)
STEPS_PER_SECOND: Final = f'SELECT non_negative_derivative("step", 1s) AS "rate" {_BUCKETS} GROUP BY "model", "dataset"'
STEPS_EDGE_BY_TIME: Final = f'SELECT max("step") * 0 AS "edge" {_BUCKETS}'


def status_by_time(run: str) -> str:
    """The state of each run in the variable `run`; null where there was no heartbeat, so that a gap can be seen."""
    return (
        f'SELECT last("status") AS "status" FROM "runs" WHERE {_of(run)} GROUP BY time($__interval), "run" fill(null)'
    )


def annotation_events(kinds: str) -> str:
    """The events of these kinds, separated by |, as annotations."""
    columns = '"title" AS "title", "text" AS "text", "kind" AS "tags"'
    return f'SELECT {columns} FROM "events" WHERE {_of("run")} AND "kind" =~ /^({kinds})$/'


# --- Delivery ---------------------------------------------------------------------------------------------------------

_PROCESS = '"experiment", "run", "host", "rank"'
DELIVERY_STATE: Final = (
    'SELECT last("pending_points") AS "pending", last("pending_bytes") AS "bytes", last("delivered") AS "delivered", '
    'last("retried") AS "retried", last("quarantined") AS "quarantined", last("dropped") AS "dropped" '
    f'FROM "delivery" WHERE {_of("run")} GROUP BY {_PROCESS}'
)
# Alone, because several selectors side by side lose the time of their point: here, that of the last report.
DELIVERY_REPORT: Final = f'SELECT last("lag_s") AS "lag" FROM "delivery" WHERE {_of("run")} GROUP BY {_PROCESS}'


def delivery_total(field: str, function: str = "sum") -> str:
    """One number over what each process last reported."""
    inner = f'SELECT last("{field}") AS "last" FROM "delivery" WHERE {_of("run")} GROUP BY {_PROCESS}'
    return f'SELECT {function}("last") AS "{field}" FROM ({inner})'


def delivery_by_time(field: str) -> str:
    """The highest value in each interval, a series a process."""
    return (
        f'SELECT max("{field}") AS "{field}" FROM "delivery" WHERE {_of("run")} '
        f"GROUP BY time($__interval), {_PROCESS} fill(none)"
    )


DELIVERY_LOST: Final = (
    'SELECT max("quarantined") + max("dropped") AS "lost" FROM "delivery" '
    f"WHERE {_of('run')} GROUP BY time($__interval), {_PROCESS} fill(none)"
)
DELIVERY_EDGE: Final = f'SELECT max("pending_points") * 0 AS "edge" FROM "delivery" WHERE {_of("run")}'


def delivery_growth(field: str, function: str) -> str:
    """How a counter grows, a series a process; the counter of a process that begins anew is no loss."""
    inner = (
        f'SELECT last("{field}") AS "count" FROM "delivery" WHERE {_of("run")} '
        f"GROUP BY time($__interval), {_PROCESS} fill(none)"
    )
    return f'SELECT {function} AS "{field}" FROM ({inner}) GROUP BY {_PROCESS}'
