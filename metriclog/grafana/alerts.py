"""The alert rules: what is wrong with a run, in which words, and where to look. Each has a heading in the runbook.

A rule fires once a run, or a metric of a run, whatever the number of ranks, and never for a run that has finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from metriclog import alert_queries as queries
from metriclog.grafana import links
from metriclog.grafana.delivery import delivery
from metriclog.grafana.rules import Group, Number, Rule
from metriclog.grafana.variables import DATASOURCE_UID

FILE: Final = "provisioning/grafana/alerting/metriclog.yaml"
RUNBOOK: Final = "provisioning/RUNBOOK.md"

_COMMENT = """\
Alert rules of metriclog, made by `python -m metriclog.grafana`: change metriclog/grafana/alerts.py, not this file.
They say what is wrong. Who is told is in Grafana's notification policies, which this file leaves alone: it can be put
into the folder provisioning/alerting of any Grafana that has the data source metriclog-influxql.
What each one means and what to do is in provisioning/RUNBOOK.md.
"""
_TRAINING, _DELIVERY = "training", "delivery"
_RECENT_MIN = queries.RECENT_S // 60
# Grafana's math joins what has the same labels, drops the rest, and where one instance is left on each side joins them
# whatever their labels. So what may lack a run stands beside a number that every run has, and a run that has finished
# differs by a value.
_NOT_FINISHED = "* $ENDED == $UNFINISHED"
_KIND = "{{ if eq $values.KIND.Value 1.0 }}NaN{{ else if eq $values.KIND.Value 2.0 }}+Inf{{ else }}-Inf{{ end }}"
_OF_RUN = "Run {{ $labels.run }} of experiment {{ $labels.experiment }}"


def all_alerts() -> Group:
    """Every rule."""
    rules = [_nonfinite(), _diverged(), _stalled(), _dead(), _lost(), _events()]
    return Group("metriclog", "metriclog", DATASOURCE_UID, rules)


def alerts_file() -> str:
    """The text of the file."""
    return all_alerts().to_yaml(_COMMENT)


def _nonfinite() -> Rule:
    title = "Metric is NaN or infinite"
    return Rule(
        "metriclog-nonfinite",
        title,
        [
            Number("COUNT", queries.NONFINITE, queries.RECENT_S),
            Number("KIND", queries.NONFINITE_KIND, queries.RECENT_S),
            Number("STEP", queries.NONFINITE_STEP, queries.RECENT_S),
            *_state(),
        ],
        f"($COUNT > 0) {_NOT_FINISHED}",
        _labels("critical", _TRAINING),
        _texts(
            title,
            f"Run {{{{ $labels.run }}}}: {{{{ $labels.metric }}}} is {_KIND} at step {_whole('STEP')}",
            f"{_OF_RUN} logged {_whole('COUNT')} values of {{{{ $labels.metric }}}} in the last {_RECENT_MIN} minutes "
            f"that are NaN or infinite, the first of them at step {_whole('STEP')}, the newest {_KIND}.",
            metric=True,
        ),
        steps=_UNTIL,
    )


def _diverged() -> Rule:
    title = "Loss diverged"
    window = queries.DIVERGED_S
    return Rule(
        "metriclog-diverged",
        title,
        [
            Number("EXCESS", queries.EXCESS, window),
            Number("LOSS", queries.LOSS_NOW, window),
            Number("AVERAGE", queries.LOSS_AVERAGE, window),
            Number("BEST", queries.LOSS_BEST, window),
            Number("STEP", queries.LOSS_STEP, window),
            Number("RUNNING", queries.newest_of_run("running"), queries.DAY_S),
            *_times(),
        ],
        # The rounding of a loss that never changes is no excess.
        "($EXCESS > 0.000001 * abs($LOSS)) * $RUNNING",
        _labels("critical", _TRAINING),
        _texts(
            title,
            f"Run {{{{ $labels.run }}}}: {{{{ $labels.metric }}}} is at {_short('LOSS')}, its average is "
            f"{_short('AVERAGE')} (step {_whole('STEP')})",
            f"{_OF_RUN}: over the last {window // 60} minutes {{{{ $labels.metric }}}} was {_short('LOSS')} on average "
            f"(step {_whole('STEP')}). Over the whole run it is {_short('AVERAGE')}, its best value {_short('BEST')}: "
            "it is farther above its average than its best is below, and half the way back to its worst.",
            metric=True,
        ),
        steps=_UNTIL,
        for_s=120,
    )


def _stalled() -> Rule:
    title = "Run stalled"
    day, silent, lived = queries.DAY_S, queries.STALLED_S, queries.STALLED_S * 4 // 5
    return Rule(
        "metriclog-stalled",
        title,
        [
            Number("POINT", queries.NEWEST_POINT, day),
            Number("LOGGED", queries.LOGGED, day),
            Number("RUNNING", queries.newest_of_run("running"), day),
            Number("BEFORE", queries.newest_of_run("ended"), day, lived),
            Number("ATTEMPT", queries.newest_of_run("attempt"), day),
            Number("ATTEMPT_BEFORE", queries.newest_of_run("attempt"), day, lived),
            Number("STEP", queries.newest_of_run("steps"), day),
            *_times(),
        ],
        # A process that has just begun, or begun again, has a while before it must log; dead ones have another rule.
        f"($SILENCE > {silent} && $SILENCE > {queries.STALLED_INTERVALS} * $INTERVAL) * $RUNNING && "
        f"$ATTEMPT == $ATTEMPT_BEFORE && $ENDED - $BEFORE > {lived * 800}",
        _labels("warning", _TRAINING),
        _texts(
            title,
            f"Run {{{{ $labels.run }}}} is alive and has logged nothing for {_duration('SILENCE')} "
            f"(step {_whole('STEP')})",
            f"{_OF_RUN} sends heartbeats, but its last metric is {_duration('SILENCE')} old; until then it logged "
            f"every {_duration('INTERVAL')}. Its highest step is {_whole('STEP')}.",
        ),
        steps={
            "SILENCE": "($ENDED - $STARTED - $POINT) / 1000",
            "INTERVAL": "$POINT / $LOGGED / 1000",
            **_UNTIL,
        },
        panel=_panel("Heartbeats of the newest"),
    )


def _dead() -> Rule:
    title = "Run is dead"
    day, silent = queries.DAY_S, queries.SILENT_S
    return Rule(
        "metriclog-dead",
        title,
        [
            Number("RUNNING", queries.newest_of_run("running"), day),
            Number("BEFORE", queries.newest_of_run("ended"), day, silent),
            Number("STEP", queries.newest_of_run("steps"), day),
            *_times(),
        ],
        "$RUNNING * $ENDED == $BEFORE",
        _labels("critical", _TRAINING),
        _texts(
            title,
            f"Run {{{{ $labels.run }}}} has stopped without a word at step {_whole('STEP')}",
            f"{_OF_RUN} says that it is running, but has given no sign of life for more than "
            f"{(silent + _DEAD_FOR_S) // 60} minutes. Its highest step is {_whole('STEP')}.",
        ),
        steps=_UNTIL,
        for_s=_DEAD_FOR_S,
        # One rule says that InfluxDB cannot be asked; the others would say the same.
        on_error="Error",
        panel=_panel("Heartbeats of the newest"),
    )


def _lost() -> Rule:
    title = "Points are dropped or quarantined"
    return Rule(
        "metriclog-lost",
        title,
        [
            Number("DROPPED", queries.lost("dropped"), queries.RECENT_S),
            Number("QUARANTINED", queries.lost("quarantined"), queries.RECENT_S),
            *_state(),
        ],
        f"($DROPPED + $QUARANTINED > 0) {_NOT_FINISHED}",
        _labels("critical", _DELIVERY),
        _texts(
            title,
            f"Run {{{{ $labels.run }}}}: {_whole('DROPPED')} points dropped, {_whole('QUARANTINED')} quarantined",
            f"{_OF_RUN}: in the last {_RECENT_MIN} minutes {_whole('DROPPED')} points were given up because a disk or "
            f"a journal was full, and {_whole('QUARANTINED')} were refused by the server for good.",
            dashboard=links.DELIVERY_UID,
        ),
        steps=_UNTIL,
        panel=_panel("Quarantined and dropped points"),
    )


def _events() -> Rule:
    title = "Training reports a critical event"
    return Rule(
        "metriclog-event",
        title,
        [
            Number("COUNT", queries.critical_events("count", "step"), queries.RECENT_S),
            Number("STEP", queries.critical_events("last", "step"), queries.RECENT_S),
            # Not there where it is not finite.
            Number("VALUE", queries.critical_events("last", "value"), queries.RECENT_S),
            *_state(),
        ],
        f"($COUNT > 0) {_NOT_FINISHED}",
        _labels("critical", _TRAINING),
        _texts(
            title,
            "Run {{ $labels.run }}: {{ $labels.kind }}{{ with $labels.metric }} of {{ . }}{{ end }} at step "
            + _whole("STEP"),
            f"{_OF_RUN} reported {_whole('COUNT')} critical events ({{{{ $labels.kind }}}}) in the last {_RECENT_MIN} "
            f"minutes, the newest at step {_whole('STEP')}"
            f"{{{{ if $values.VALUE.Labels }}}} with the value {_short('VALUE')}{{{{ end }}}}. "
            "The Run dashboard has their words.",
        ),
        steps=_UNTIL,
    )


_DEAD_FOR_S = 120
# After the newest heartbeat, in epoch ms: the end of the time that a link shows.
_UNTIL: Mapping[str, str] = {"UNTIL": "$ENDED + 60000"}


def _state() -> list[Number]:
    return [Number("UNFINISHED", queries.UNFINISHED, queries.DAY_S), *_times()]


def _times() -> list[Number]:
    return [Number(field.upper(), queries.newest_of_run(field), queries.DAY_S) for field in ("started", "ended")]


def _labels(severity: str, component: str) -> dict[str, str]:
    return {"severity": severity, "component": component}


def _texts(
    title: str, summary: str, description: str, *, metric: bool = False, dashboard: str = links.RUN_UID
) -> dict[str, str]:
    what = [f"var-{name}={{{{ $labels.{name} | urlquery }}}}" for name in ("experiment", "run", *["metric"] * metric)]
    address = "&".join([*what, f"from={_whole('STARTED')}", f"to={_whole('UNTIL')}"])
    return {
        "summary": summary,
        "description": description,
        # Grafana's own address ends in a slash.
        "dashboard": f"{{{{ externalURL }}}}d/{dashboard}?{address}",
        "runbook": f"{RUNBOOK}#{title.lower().replace(' ', '-')}",
    }


def _whole(name: str) -> str:
    return f'{{{{ printf "%.0f" $values.{name}.Value }}}}'


def _short(name: str) -> str:
    return f'{{{{ printf "%.4g" $values.{name}.Value }}}}'


def _duration(name: str) -> str:
    return f"{{{{ humanizeDuration $values.{name}.Value }}}}"


def _panel(title: str) -> tuple[str, int]:
    """The panel of the dashboard Delivery whose title begins so.

    Of no other: a panel shows the state of the rule, which is that of any run, and the others show chosen runs.
    """
    made = delivery().to_dict()
    sections = [panel.get("panels") or [panel] for panel in made["panels"]]
    return made["uid"], next(one["id"] for some in sections for one in some if one["title"].startswith(title))
