"""What the demo shows while it trains: a bar a run on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from metriclog.demo.readback import LOSS

LINES_PER_RUN = 4


class Display(Protocol):
    """Told what happens, in order: begin, step …, end; then the next run."""

    def begin(self, run: str, steps: int) -> None:
        """A run of at most `steps` steps begins."""

    def step(self, number: int, metrics: Mapping[str, float]) -> None:
        """Step `number` was logged."""

    def end(self, status: str) -> None:
        """The run ended with `status`."""


@contextmanager
def display(console: Console) -> Iterator[Display]:
    """The display that suits `console`."""
    if not console.is_terminal:
        yield PlainLines(console)
        return
    columns = (
        TextColumn("{task.description}", style="bold"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[now]}", markup=True),
    )
    with Progress(*columns, console=console) as progress:
        yield Bars(progress)


class Bars:
    """A bar for each run with the loss beside it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = TaskID(0)
        self._now = ""

    def begin(self, run: str, steps: int) -> None:
        """Add a bar."""
        self._task = self._progress.add_task(f"{run:<14}", total=steps, now="")

    def step(self, number: int, metrics: Mapping[str, float]) -> None:
        """Move the bar."""
        self._now = f"{LOSS} {metrics[LOSS]:<8.4f}"
        self._progress.update(self._task, completed=number, now=self._now)

    def end(self, status: str) -> None:
        """Leave the bar where it is, with the status."""
        style = "green" if status == "finished" else "bold red"
        self._progress.update(self._task, now=f"{self._now} [{style}]{status}[/]")
        self._progress.stop_task(self._task)


class PlainLines:
    """A few lines for each run, for pipes and log files."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._run, self._steps, self._number, self._loss = "", 0, 0, 0.0

    def begin(self, run: str, steps: int) -> None:
        """Remember the run."""
        self._run, self._steps = run, steps

    def step(self, number: int, metrics: Mapping[str, float]) -> None:
        """Print a line at each quarter of the run."""
        self._number, self._loss = number, metrics[LOSS]
        if number % max(1, self._steps // LINES_PER_RUN) == 0 and number < self._steps:
            self._print("")

    def end(self, status: str) -> None:
        """Print how it ended."""
        self._print(f"  {status}")

    def _print(self, note: str) -> None:
        line = f"{self._run}  step {self._number}/{self._steps}  {LOSS} {self._loss:.4f}{note}"
        self._console.print(Text(line), soft_wrap=True)
