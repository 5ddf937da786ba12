"""What the pictures show: the demo's four runs, a sweep of twenty, and one run of ten million steps with one spike.

All of it happened before END_NS, so that the pictures are the same whenever they are taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from metriclog.demo import training
from metriclog.points import encode_line
from tests import fleet
from tests.fleet import SECOND_NS, Attempt, Block, Event, Learner, Story
from tests.servers.api import Influx

END_NS = 1_795_176_000 * SECOND_NS
HOUR_NS = 3600 * SECOND_NS
FROM_MS, TO_MS = (END_NS - 14 * HOUR_NS) // 1_000_000, END_NS // 1_000_000

DEMO, SWEEP, LONG = "digits", "cifar10-sweep", "pretraining"
DEMO_DIVERGED = "high-lr-q7xd"
LONG_RUN = "transformer-7b-m2va"
SPIKE_STEP, SPIKE = 6_171_342, 9.7
"""One value of one step of ten million."""

_BATCH_LINES = 20_000


def fill(influx: Influx) -> None:
    """Writes all of it."""
    every = (line for make in (_demo, _sweep, _long) for line in make())
    while batch := list(islice(every, _BATCH_LINES)):
        influx.write(b"".join(batch))


# --- The demo ---------------------------------------------------------------------------------------------------------


def _demo() -> Iterator[bytes]:
    """The four small models of `metriclog demo`, truly trained."""
    digits = training.load_split(0)
    for recipe, ending in zip(training.RECIPES, ("b41p", "k3f9", "z8wn", "q7xd"), strict=True):
        steps = list(training.train(recipe, digits, steps=300, seed=0))
        broken = next((step.number for step in steps if not np.isfinite(step.metrics["train/loss"])), None)
        if broken:
            steps = steps[: broken + 40]
        attempt = Attempt(_blocks(steps), events=list(_demo_events(steps, broken)))
        yield from fleet.lines(
            Story(
                DEMO,
                f"{recipe.name}-{ending}",
                END_NS - HOUR_NS,
                [attempt],
                status="failed" if broken else "finished",
                params={
                    "model": recipe.model,
                    "hidden": recipe.hidden,
                    "lr": recipe.peak_lr,
                    "batch_size": 32,
                    "seed": 0,
                },
                tags={"model": recipe.model, "dataset": f"digits@{digits.digest}"},
            )
        )


def _blocks(steps: list[training.Step]) -> list[Block]:
    """One block of what each step gave, one of what every twentieth gave beside it."""
    names = list(steps[0].metrics)
    evaluated = [step for step in steps if "eval/loss" in step.metrics]
    return [_block(steps, names), _block(evaluated, [name for name in evaluated[0].metrics if name not in names])]


def _block(steps: list[training.Step], names: list[str]) -> Block:
    numbers = np.array([step.number for step in steps], np.int64)
    return Block(numbers, {name: np.array([step.metrics[name] for step in steps]) for name in names})


def _demo_events(steps: list[training.Step], broken: int | None) -> Iterator[Event]:
    for step in steps:
        if step.phase:
            yield Event("phase", step.number, step.phase)
    if broken:
        yield Event("nonfinite", broken, "train/loss is NaN", level="critical", metric="train/loss")
        yield Event("note", broken, "train/loss became NaN", "training goes on for 40 steps at most", "critical")


# --- The sweep --------------------------------------------------------------------------------------------------------

STEPS, STEP_NS = 20_000, SECOND_NS // 2
_LENGTH_NS = STEPS * STEP_NS
_RATES = (0.003, 0.01, 0.03, 0.1, 0.3)


def _plain(number: int) -> Story:
    """One of twenty: 5 learning rates, 2 optimisers, 2 models."""
    lr, optimizer, model = _RATES[number % 5], ("sgd", "adamw")[number // 5 % 2], ("resnet18", "vit")[number // 10]
    learner = _learner(number)
    blocks = [learner.training(0, STEPS), learner.validation(0, STEPS)]
    checkpoints = [Event("checkpoint", step, f"Saved step {step}") for step in range(5_000, STEPS, 5_000)]
    return Story(
        SWEEP,
        f"{model}-{optimizer}-lr{lr}",
        END_NS - _LENGTH_NS - (20 - number) * HOUR_NS // 2,
        [Attempt(blocks, events=checkpoints)],
        step_ns=STEP_NS,
        params={
            "lr": lr,
            "optimizer": optimizer,
            "model": model,
            "batch_size": 128 if number % 3 else 256,
            "warmup": 500 if number % 4 else "none",  # a number in some runs, a text in others
            "weight_decay": 0.0005,
            "seed": number,
            **({"augmentation": "randaugment"} if number % 2 else {}),
        },
        tags={"model": model, "dataset": "cifar10"},
    )


def _learner(number: int) -> Learner:
    lr = _RATES[number % 5]
    floor = 0.22 + 0.12 * abs(np.log10(lr) + 1.5) + 0.05 * (number // 5)
    return Learner(STEPS, seed=number, floor=float(floor), speed=3 + 20 * lr**0.5, peak_lr=lr)


RANKED, RESUMED, WITH_NAN, DIVERGED = (_plain(number).run for number in range(4))


def _sweep() -> Iterator[bytes]:
    unusual = [_ranked, _resumed, _with_nan, _diverged, _silent, _with_backlog, _with_losses, _running]
    for number in range(20):
        story = _plain(number)
        yield from fleet.lines(unusual[number](story, _learner(number)) if number < len(unusual) else story)


def _ranked(story: Story, learner: Learner) -> Story:
    return replace(story, ranks=4)


def _resumed(story: Story, learner: Learner) -> Story:
    """Killed at step 12,000, and ten minutes later resumed from the checkpoint of step 10,000."""
    first = Attempt([learner.training(0, 12_000), learner.validation(0, 12_000)], events=story.attempts[0].events[:2])
    second = Attempt([learner.training(10_000, STEPS), learner.validation(10_000, STEPS)], pause_s=600)
    return replace(story, attempts=[first, second])


def _with_nan(story: Story, learner: Learner) -> Story:
    """The loss is NaN for 300 steps, the gradient infinite now and then."""
    block, validation = learner.training(0, STEPS), learner.validation(0, STEPS)
    steps = block.steps
    block = fleet.replaced(block, "train/loss", (steps >= 8_000) & (steps < 8_300), np.nan)
    block = fleet.replaced(block, "grad_norm", (steps > 7_000) & (steps % 1_111 == 0), np.inf)
    events = [
        Event("nonfinite", 7_777, "grad_norm is infinite", level="warning", metric="grad_norm"),
        Event("nonfinite", 8_000, "train/loss is NaN", level="critical", metric="train/loss"),
    ]
    return replace(story, attempts=[Attempt([block, validation], events=events)])


def _diverged(story: Story, learner: Learner) -> Story:
    """The loss grows from step 6,000 on; at 9,000 the script gives up."""
    block, validation = learner.training(0, 9_000), learner.validation(0, 9_000)
    growth = np.exp(np.maximum(block.steps - 6_000, 0) / 600)
    block = fleet.replaced(block, "train/loss", block.steps >= 6_000, block.curves["train/loss"] * growth)
    loss = float(block.curves["train/loss"][6_900])
    event = Event("divergence", 6_900, "train/loss diverges", "twice its best value", "critical", "train/loss", loss)
    return replace(story, attempts=[Attempt([block, validation], events=[event])], status="failed")


def _silent(story: Story, learner: Learner) -> Story:
    """Killed at step 13,000: its last word is that it runs."""
    return replace(story, attempts=[_up_to(learner, 13_000)], status="running")


def _up_to(learner: Learner, last: int) -> Attempt:
    return Attempt([learner.training(0, last), learner.validation(0, last)])


def _with_backlog(story: Story, learner: Learner) -> Story:
    """Still running at END_NS; the server was away for two of its ten thousand seconds in ten."""
    return replace(story, started_ns=END_NS - _LENGTH_NS, status="running", backlog=True)


def _with_losses(story: Story, learner: Learner) -> Story:
    return replace(story, dropped=4_200, quarantined=3)


def _running(story: Story, learner: Learner) -> Story:
    return replace(story, attempts=[_up_to(learner, 15_000)], started_ns=END_NS - 15_000 * STEP_NS, status="running")


# --- Ten million steps ------------------------------------------------------------------------------------------------

LONG_STEPS, BUCKET = 10_000_000, 10_000
_LONG_STEP_NS = 4_000_000


@dataclass(frozen=True)
class _Bucket:
    """What a roll-up says about `size` steps from `first` on."""

    first: int
    size: int
    value: float
    low: float
    high: float


def _long() -> Iterator[bytes]:
    """Its roll-ups of 10,000 steps and more; of the points themselves every 10,000th: no picture shows more."""
    block = Learner(LONG_STEPS, floor=1.7, speed=4).training(0, LONG_STEPS, BUCKET)
    whole = Block(np.append(block.steps, LONG_STEPS - 1), {"train/loss": np.append(block.curves["train/loss"], 1.7)})
    checkpoints = [Event("checkpoint", step, f"Saved step {step}") for step in range(1_000_000, LONG_STEPS, 1_000_000)]
    story = Story(
        LONG,
        LONG_RUN,
        END_NS - LONG_STEPS * _LONG_STEP_NS - HOUR_NS,
        [Attempt([whole], events=checkpoints)],
        step_ns=_LONG_STEP_NS,
        params={"lr": 3e-4, "layers": 32, "tokenizer": "bpe-64k"},
        tags={"model": "transformer"},
    )
    yield from fleet.lines_beside_points(story)
    tags = (("experiment", LONG), ("run", LONG_RUN), ("metric", "train/loss"), *story.tags.items())
    for step, value in zip(whole.steps.tolist(), whole.curves["train/loss"].tolist(), strict=True):
        yield _long_line("metrics", tags, {"value": value}, step, step)
    buckets = [_bucket(*pair) for pair in zip(block.steps.tolist(), block.curves["train/loss"].tolist(), strict=True)]
    for size in (BUCKET, 10 * BUCKET, 100 * BUCKET):
        for bucket in _merged(buckets, size // BUCKET):
            fields = {"value": bucket.value, "min": bucket.low, "max": bucket.high}
            yield _long_line(f"metrics_{size}", tags, fields, bucket.first + size // 2, bucket.first + size - 1)
    yield _long_summary(tags, buckets)


def _bucket(first: int, value: float) -> _Bucket:
    spiked = first <= SPIKE_STEP < first + BUCKET
    mean = value + (SPIKE - value) / BUCKET if spiked else value
    return _Bucket(first, BUCKET, mean, 0.86 * value, SPIKE if spiked else 1.15 * value)


def _merged(buckets: list[_Bucket], count: int) -> Iterator[_Bucket]:
    for begin in range(0, len(buckets), count):
        group = buckets[begin : begin + count]
        mean = sum(bucket.value for bucket in group) / len(group)
        low, high = min(bucket.low for bucket in group), max(bucket.high for bucket in group)
        yield _Bucket(group[0].first, count * BUCKET, mean, low, high)


def _long_line(
    measurement: str, tags: tuple[tuple[str, str], ...], fields: dict[str, float], step: int, last: int
) -> bytes:
    """A point that was written when step `last` had been logged."""
    after_ns = (last + 1) * _LONG_STEP_NS
    begin_ns = END_NS - LONG_STEPS * _LONG_STEP_NS - HOUR_NS
    all_fields = {**fields, "step": step, "elapsed": after_ns // 1_000_000}
    return f"{encode_line(measurement, tags, all_fields, begin_ns + after_ns)}\n".encode()


def _long_summary(tags: tuple[tuple[str, str], ...], buckets: list[_Bucket]) -> bytes:
    low = min(buckets, key=lambda bucket: bucket.low)
    fields: dict[str, float | int | str] = {
        "last": buckets[-1].value,
        "min": low.low,
        "max": SPIKE,
        "mean": sum(bucket.value for bucket in buckets) / len(buckets),
        "last_step": LONG_STEPS - 1,
        "min_step": low.first + 17,
        "max_step": SPIKE_STEP,
        "count": LONG_STEPS,
        "nonfinite": 0,
    }
    return f"{encode_line('summary', tags, fields, END_NS - HOUR_NS)}\n".encode()
