"""The dashboard Run: everything about one run, by step and by the wall clock."""

from __future__ import annotations

from metriclog import dashboard_queries as queries
from metriclog.grafana import curves, links, tables, times, variables
from metriclog.grafana.model import (
    Annotation,
    Dashboard,
    Data,
    Fields,
    Heading,
    Override,
    Panel,
    Section,
    Size,
    Target,
    TimeRange,
    Words,
)

_EVENTS = 200
_PAUSE_MS = 300_000
_NO_RANKS = curves.Absence(queries.RANKS_ABSENT, "This run has no ranks, or none that logged a chosen metric")


def one_run() -> Dashboard:
    return Dashboard(
        heading=Heading(links.RUN_UID, "Run", "One run: its curves, its state over time, its events and parameters."),
        # The charts over time need the run's own range, which the links that lead here bring along.
        time=TimeRange("now-7d", refresh="1m"),
        variables=variables.of_run(),
        links=[links.to_runs(), links.to_compare(), links.to_delivery(), links.to_live()],
        annotations=_annotations(),
        panels=[_state()],
        sections=[
            Section("Training against validation", [_training_against_validation()]),
            Section("Every metric: mean, lowest and highest", [_every_metric()]),
            Section("Learning rate and gradients", [_learning_rate(), _gradient_norm()]),
            Section(
                "By the wall clock", [times.states("State", "run", Size(height=4)), _throughput(), _quantity_by_time()]
            ),
            Section("Events and parameters", [_events(), _params()]),
            Section("Ranks", [_spread_of_ranks(), _each_rank()], folded=True),
        ],
    )


def _annotations() -> list[Annotation]:
    return [
        Annotation("Problems", "red", queries.annotation_events("nonfinite|divergence|alert")),
        Annotation("Checkpoints", "blue", queries.annotation_events("checkpoint|phase|note")),
        Annotation("Start, resume, finish", "green", queries.annotation_events("start|resume|finish")),
    ]


def _state() -> Panel:
    return tables.runs_panel(
        "Run ${run}",
        "The state of this run. Status killed? is a run that says running but has given no sign of life for a minute.",
        Data(tables.state_targets("run"), [*tables.state_rows(), *tables.joined()]),
        height=4,
    )


def _training_against_validation() -> Panel:
    words = Words(
        "$quantity",
        "The same quantity on the training data and, in orange, on validation or test data: the gap between them is "
        "over-fitting. Metrics belong together by their names: train/loss, val_loss and eval/loss are all loss. Red "
        "dots at the bottom mark steps whose value was NaN or infinite.",
    )
    size = Size(width=12, height=10, repeat="quantity")
    return curves.of_quantity(words, size)


def _every_metric() -> Panel:
    words = Words(
        "$metric_drawn",
        "The mean of each bucket of steps, in a band from its lowest to its highest value: a spike in one step of "
        f"millions is there. The first {queries.METRICS_DRAWN} of the chosen metrics. Red dots at the bottom mark "
        "buckets with NaN or infinite values.",
    )
    return curves.band(words, Size(width=8, height=8, repeat="metric_drawn"))


def _learning_rate() -> Panel:
    words = Words(
        "Learning rate",
        "Every metric whose name has lr or learning rate as a word.",
    )
    nothing = "No metric of this run has lr or learning rate as a word in its name"
    absence = curves.Absence(queries.LEARNING_RATE_ABSENT, nothing)
    return curves.by_metric(words, queries.LEARNING_RATE_CURVES, Size(width=12, height=8), absence)


def _gradient_norm() -> Panel:
    words = Words(
        "Gradient norm",
        "Every metric whose name has grad_norm, gradient norm or the like in it.",
    )
    absence = curves.Absence(
        queries.GRADIENT_NORM_ABSENT, "No metric of this run has grad_norm or the like in its name"
    )
    return curves.by_metric(words, queries.GRADIENT_NORM_CURVES, Size(width=12, height=8), absence)


def _spread_of_ranks() -> Panel:
    words = Words(
        "Over the ranks: $metric_ranked",
        "The mean over the ranks in a band from the lowest to the highest rank.",
    )
    return curves.spread_of_ranks(words, Size(width=8, height=8, repeat="metric_ranked"), _NO_RANKS)


def _each_rank() -> Panel:
    words = Words("On each rank: $metric_ranked", "A line per rank: which of them is apart from the others.")
    return curves.ranks_apart(words, Size(width=8, height=8, repeat="metric_ranked"), _NO_RANKS)


def _throughput() -> Panel:
    words = Words(
        "Throughput",
        "Steps per second by the metric that was logged most often; and, on the right, every metric named like "
        "samples_per_second.",
    )
    asked = [
        Target("steps", queries.STEPS_PER_SECOND, alias="steps per second"),
        Target("logged", queries.THROUGHPUT_BY_TIME, alias="$tag_metric"),
        times.edge(queries.STEPS_EDGE_BY_TIME),
    ]
    nothing = "Fewer than twenty steps, and no metric named like samples_per_second."
    on_the_left = Override("byName", "steps per second", {"custom.axisPlacement": "left", "min": 0})
    broken_by_a_pause = {"spanNulls": False, "insertNulls": _PAUSE_MS, "axisPlacement": "right"}
    fields = Fields({"noValue": nothing}, broken_by_a_pause, overrides=[on_the_left])
    return times.lines(words, Data(asked, interval="30s"), Size(height=8), fields)


def _quantity_by_time() -> Panel:
    words = Words(
        "$quantity by the wall clock",
        "The same lines as above over the time of day, with what happened meanwhile: start, resume and finish in "
        "green, checkpoints in blue, non-finite values and divergence in red.",
    )
    asked = [Target("curves", queries.QUANTITY_BY_TIME, alias="$tag_metric"), times.edge(queries.QUANTITY_EDGE_BY_TIME)]
    size = Size(width=12, height=9, repeat="quantity")
    return times.lines(words, Data(asked), size, Fields(overrides=curves.of_splits()))


def _events() -> Panel:
    return tables.events_panel("Events", "What happened in this run, the newest first.", _EVENTS, Size(16, 10), ["run"])


def _params() -> Panel:
    return Panel(
        type="table",
        title="Parameters",
        description="The newest value of each parameter: a number or a text.",
        data=Data([Target("params", queries.PARAMS_OF_RUN)], [tables.without_time()]),
        options={"showHeader": True, "cellHeight": "sm", "sortBy": [{"displayName": "param", "desc": False}]},
        fields=Fields(
            defaults={"noValue": "No parameters.", "unit": "none"},
            custom={"minWidth": 80, "align": "auto"},
            overrides=[Override("byRegexp", "/.*/", {"noValue": ""})],
        ),
        size=Size(8, 10),
    )
