"""Every panel of every dashboard, with the data of a small experiment in which all goes wrong that can: asked of a real
InfluxDB, made into frames as Grafana does it, and put through the panel's transformations in node."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any

import numpy as np

from tests import dashboard_files, fleet
from tests.fleet import SECOND_NS, Attempt, Block, Event, Learner, Story
from tests.grafana_frames import frames_of
from tests.grafana_interpolation import Value
from tests.grafana_variables import Ask, Menus
from tests.servers.api import Influx
from tests.servers.node import Node

START_NS = 1_795_000_000 * SECOND_NS
FROM_MS, TO_MS = START_NS // 1_000_000 - 60_000, START_NS // 1_000_000 + 600_000
EXPERIMENT = 'digits/v1.2 - it\'s "new" +aug'
PLAIN, WITH_NAN, RESUMED, RANKED = "lr0.1-k3f9", "2026-11-23_lr0.1", "-resumed.twice_", "ranks.r3-x"
ACCURACY = 'val acc. (top-5) + it\'s "best"'
STEPS = 60
NAN_STEPS = range(20, 41)

SMOOTH = "smooth"
"""What a smoothed line is called."""
EDGE = "edge"
"""An unseen point that widens the axis a little."""
ABSENT = "absent"
"""An unseen point whose name in the legend says that there is nothing to show."""

Json = dict[str, Any]
Line = dict[float, float]
"""x → value; of two values at one x the last."""

DASHBOARDS: Mapping[str, Json] = {made["uid"]: made for made in dashboard_files.DASHBOARDS.values()}


def fill(influx: Influx) -> None:
    """Four runs of one experiment, and one of another with nearly the same name."""
    stories = [*_stories(), replace(_plain(), experiment="digits", run="foreign")]
    influx.write(b"".join(line for story in stories for line in fleet.lines(story)))


def logged(metric: str) -> dict[str, Line]:
    """What each run's first rank logged: step → the newest value, where that is finite."""
    lines: dict[str, Line] = {}
    for story in _stories():
        for block in (block for attempt in story.attempts for block in attempt.blocks):
            pairs = zip(block.steps.tolist(), block.curves[metric].tolist(), strict=True)
            lines.setdefault(story.run, {}).update({step: value for step, value in pairs if np.isfinite(value)})
    return lines


def _stories() -> list[Story]:
    return [_plain(), _with_nan(), _resumed(), _ranked()]


def _plain(seed: int = 0) -> Story:
    block = _block(0, STEPS, seed)
    params = {"lr": 0.1 + seed, "optimizer": "sgd", "warmup": 500 if seed % 2 else "none", "model/depth": 18}
    params |= {"augment": "flip"} if seed % 2 else {}
    checkpoint = Event("checkpoint", 30, "Saved step 30")
    attempt = Attempt([block], events=[checkpoint])
    return Story(EXPERIMENT, PLAIN, START_NS, [attempt], params=params, tags={"model": "mlp", "dataset": "digits@1f3a"})


def _block(first: int, last: int, seed: int) -> Block:
    learner = Learner(STEPS, seed=seed)
    training, validation = learner.training(first, last), learner.validation(first, last)
    return Block(training.steps, {**training.curves, **validation.curves, ACCURACY: validation.curves["eval/accuracy"]})


def _with_nan() -> Story:
    """A stretch of NaN, longer than two buckets of ten steps."""
    block = _block(0, STEPS, 1)
    missing = np.isin(block.steps, NAN_STEPS)
    events = [Event("nonfinite", NAN_STEPS.start, "train/loss is NaN", level="critical", metric="train/loss")]
    block = fleet.replaced(fleet.replaced(block, "train/loss", missing, np.nan), "grad_norm", missing, np.inf)
    return replace(_plain(1), run=WITH_NAN, attempts=[Attempt([block], events=events)], status="failed")


def _resumed() -> Story:
    """Steps 0 to 39, then 25 to 59 once more with other values."""
    attempts = [Attempt([_block(0, 40, 2)]), Attempt([_block(25, STEPS, 2)], pause_s=20)]
    return replace(_plain(2), run=RESUMED, attempts=attempts, status="running")


def _ranked() -> Story:
    return replace(_plain(3), run=RANKED, ranks=3)


@dataclass(frozen=True)
class View:
    """What is chosen in the menus; `run` where a dashboard shows one run, or if it stands `alone`."""

    run: str = WITH_NAN
    alone: bool = False
    chosen: Mapping[str, Value] | None = None
    tags_reversed: bool = False

    def menus(self, uid: str, ask: Ask) -> Menus:
        """What the menus of a dashboard hold then."""
        dashboard = DASHBOARDS[uid]
        return Menus(dashboard, ask, FROM_MS, TO_MS, **self._choices(dashboard))

    def _choices(self, dashboard: Json) -> dict[str, Value]:
        menus = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
        several = menus.get("run", {}).get("multi")
        wanted = {**(self.chosen or {}), "experiment": EXPERIMENT}
        if self.alone or not several:
            wanted["run"] = [self.run] if several else self.run
        return {name: value for name, value in wanted.items() if name in menus}


VIEWS: Mapping[str, View] = {
    "all": View(),
    "tags the other way round": View(tags_reversed=True),
    "rolled up": View(chosen={"resolution": "metrics_10"}),
    "over time": View(RANKED, chosen={"x": 'round("elapsed" / 6000) / 10'}),
    "ranks": View(RANKED),
    "a resumed run alone": View(RESUMED, alone=True),
    "a plain run alone": View(PLAIN, alone=True),
}


def _line(x: list[float], values: list[float | None]) -> Line:
    return {at: value for at, value in zip(x, values, strict=True) if value is not None}


@dataclass(frozen=True)
class Drawn:
    """One drawing of a panel: which value it was repeated for, what was asked, what came of it."""

    repeated: Mapping[str, Value]
    transformations: list[Json]
    frames: list[Json]
    result: Json = field(default_factory=dict)

    @property
    def fields(self) -> list[Json]:
        """The columns of the only frame."""
        (frame,) = self.result["frames"]
        return list(frame["fields"])

    @property
    def columns(self) -> dict[str, list[Any]]:
        """The same, by their names."""
        return {one["name"]: one["values"] for one in self.fields}

    @property
    def smooth(self) -> dict[str, Line]:
        """The smoothed lines of a chart, by run."""
        smooth = [one for one in self.fields if one["name"] == SMOOTH]
        return {one["labels"]["name"]: _line(self.columns["x"], one["values"]) for one in smooth}

    @property
    def lines(self) -> dict[str, Line]:
        """The lines of a chart over x, by the name in the legend: the column's, or where smoothed the run's."""
        x, apart = self.columns["x"], any(step["id"] == "partitionByValues" for step in self.transformations)
        named = {
            one["labels"].get("name") if apart else one["name"].removeprefix("rank "): one["values"]
            for one in self.fields
            if one["name"] not in ("x", SMOOTH, EDGE, ABSENT)
        }
        lines = {name: _line(x, values) for name, values in named.items()}
        return {name: line for name, line in lines.items() if line}

    @property
    def answered(self) -> dict[str, Line]:
        """The same from the frames: of a frame with a text column a line for each text in it."""
        lines: dict[str, Line] = {}
        for name, x, value in self._rows():
            lines.setdefault(name, {})[x] = value
        return lines

    def _rows(self) -> Iterator[tuple[str, float, float]]:
        """Every row of the frames as (name of the line, x, value)."""
        for frame in self.frames:
            schema = frame["schema"]["fields"]
            columns = {one["name"]: values for one, values in zip(schema, frame["data"]["values"], strict=True)}
            keys = [one["name"] for one in schema if one["type"] == "string"]
            numbers = [one["name"] for one in schema if one["type"] == "number"]
            for name in (name for name in numbers if name not in ("x", EDGE, ABSENT)):
                names = columns[keys[0]] if keys else repeat(name)
                rows = zip(names, columns["x"], columns[name], strict=False)
                yield from (row for row in rows if row[2] is not None)


def all_panels() -> Iterator[tuple[str, Json]]:
    """Each panel that asks InfluxDB something, with its dashboard's uid."""
    for uid, dashboard in DASHBOARDS.items():
        yield from ((uid, panel) for panel in dashboard_files.panels_of(dashboard) if panel.get("targets"))


Key = tuple[str, int, str]
"""A dashboard's uid, the number of a panel in it, and the name of a view."""


def draw_all(influx: Influx, node: Node) -> dict[Key, list[Drawn]]:
    """Every panel in every view; node is started once for all of them."""
    chains = list(_chains(Asked(influx)))
    asked = [{"transformations": chain.transformations, "frames": chain.frames} for _, chain in chains]
    drawn: dict[Key, list[Drawn]] = {}
    for (key, chain), result in zip(chains, node.transform(asked), strict=True):
        drawn.setdefault(key, []).append(replace(chain, result=result))
    return drawn


def _chains(asked: Asked) -> Iterator[tuple[Key, Drawn]]:
    """Each panel in each view, for each value that it is repeated for, without its result."""
    for view_name, view in VIEWS.items():
        menus_of = {uid: view.menus(uid, asked.rows) for uid in DASHBOARDS}
        for uid, panel in all_panels():
            menus = menus_of[uid]
            for scoped in repeats(panel, menus):
                frames = [
                    frame
                    for target in panel["targets"]
                    for frame in frames_of(
                        target,
                        asked.series(menus.interpolate(target["query"], **scoped)),
                        tags_reversed=view.tags_reversed,
                    )
                ]
                yield (uid, panel["id"], view_name), Drawn(scoped, _steps(panel, menus, scoped), frames)


class Asked:
    """Answers of InfluxDB, each asked for once."""

    def __init__(self, influx: Influx) -> None:
        self._influx = influx
        self._answers: dict[str, Sequence[Json]] = {}

    def series(self, query: str) -> Sequence[Json]:
        """The series of the first statement, times in ms."""
        if query not in self._answers:
            self._answers[query] = self._influx.query(query, epoch="ms")["results"][0].get("series", [])
        return self._answers[query]

    def rows(self, query: str) -> list[list[Any]]:
        """The rows of all series."""
        return [row for one in self.series(query) for row in one["values"]]


def repeats(panel: Json, menus: Menus) -> list[dict[str, Value]]:
    """What a panel is repeated for: the variable with each of its values, or once without any."""
    if not (name := panel.get("repeat")):
        return [{}]
    # Of no values Grafana draws one panel all the same.
    return [{name: value} for value in menus.chosen(name) or [""]]


def _steps(panel: Json, menus: Menus, scoped: Mapping[str, Value]) -> list[Json]:
    """The transformations, with variables replaced in their JSON text as the page does it."""
    text = json.dumps(panel.get("transformations", []))
    steps: list[Json] = json.loads(menus.interpolate(text, **scoped))
    return steps
