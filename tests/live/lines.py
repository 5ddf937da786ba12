"""Line protocol for the live tests of queries, written apart from metriclog's own encoder: one point, one line."""

from __future__ import annotations

from collections.abc import Mapping

START_NS = 1_795_000_000_000_000_000
SECOND_NS = 1_000_000_000


def line(measurement: str, tags: Mapping[str, str], fields: str, time_ns: int) -> str:
    """One line; `fields` is written as it must stand, e.g. `value=0.5,step=3i`."""
    pairs = "".join(f",{key}={_escaped(value)}" for key, value in tags.items())
    return f"{measurement}{pairs} {fields} {time_ns}"


def metric(tags: Mapping[str, str], step: int, value: float | None, time_ns: int) -> str:
    """A point of `metrics`, one second a step; a value of None is a NaN."""
    what = "nonfinite=1i" if value is None else f"value={value!r}"
    return line("metrics", tags, f"{what},step={step}i,elapsed={1000 * step + 40}i", time_ns)


def run_state(tags: Mapping[str, str], status: str, steps: int, time_ns: int, resolution: str = "metrics") -> str:
    """A heartbeat in `runs`, with every field."""
    running, to = 1, "now"
    ended_ms = time_ns // 1_000_000  # of a run that goes on, the time of its last sign of life
    if status != "running":
        running, to = 0, str(ended_ms + 1)
    fields = (
        f'running={running}i,status="{status}",started={START_NS // 1_000_000}i,ended={ended_ms}i,to="{to}",'
        f'steps={steps}i,resolution="{resolution}",host="h1",pid=17i,attempt=1i'
    )
    return line("runs", tags, fields, time_ns)


def _escaped(value: str) -> str:
    return value.replace(",", r"\,").replace("=", r"\=").replace(" ", r"\ ")
