"""The demo from end to end: train and log, read back, compare, draw, say what to type next."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from metriclog import reader
from metriclog.demo import picture, terminal
from metriclog.demo.progress import display
from metriclog.demo.readback import LOSS, RunRecord, read_runs
from metriclog.demo.report import comparison_table, nonfinite_sentences
from metriclog.demo.training import RECIPES, Digits, load_split
from metriclog.demo.trial import EXPERIMENT, Logged, Trial
from metriclog.errors import QueryError, ServerError, UsageError
from metriclog.settings import Settings

DEFAULT_STEPS = 3000
STEPS_TO_DIVERGE = 100
AWAY_TIMEOUT_S = 0.5  # once the server has not answered one run, the next ones need not wait as long
CHART_COLUMNS = 100
LOCAL_SERVER = "http://127.0.0.1:8086"  # where docker-compose.yml puts InfluxDB


class Tour:
    """One walk through the demo. `run` is the walk; the rest are its stations, in order."""

    def __init__(
        self, settings: Settings, *, steps: int | None, output: Path | None, console: Console | None, seed: int
    ) -> None:
        self._settings = settings
        self._steps = DEFAULT_STEPS if steps is None else steps
        self._output = settings.dir / "demo-curves.png" if output is None else output
        self._console = console or Console()
        self._seed = seed
        self._online = settings.effective_mode() == "online"

    def run(self) -> int:
        """Returns 0 if every value logged was read back, with a server: from there."""
        self._check()
        digits = load_split(self._seed)
        self._introduce(digits)
        logged = self._train(digits)
        delivered = self._tell_delivery(logged) if self._online else False
        records, from_server = self._read_back(logged, try_server=delivered)
        complete = self._compare(logged, records)
        self._draw(records)
        self._say_next(logged, from_server=from_server)
        return 0 if complete and from_server == self._online else 1

    def _check(self) -> None:
        if self._steps < 1:
            raise UsageError(f"steps must be 1 or more, not {self._steps}")
        if self._settings.effective_mode() == "disabled":
            raise UsageError("the demo reads back what it logs, and METRICLOG_MODE=disabled keeps nothing; unset it")
        if self._online:
            self._settings.check_online()

    def _introduce(self, digits: Digits) -> None:
        self._say(
            f"{len(RECIPES)} models, {self._steps:,} steps each, on scikit-learn's digits: "
            f"{len(digits.train_x):,} to train on, {len(digits.eval_x)} to validate."
        )
        shipped = f", shipped to {self._settings.url}" if self._online else "; no server configured, none needed"
        self._say(f"Metrics go to the journal in {self._settings.dir}{shipped}.\n")

    def _train(self, digits: Digits) -> list[Logged]:
        trial = Trial(self._settings, digits, self._steps, self._seed)
        logged: list[Logged] = []
        with display(self._console) as shown:
            for recipe in RECIPES:
                away = any(earlier.pending for earlier in logged)
                wait_s = min(self._settings.exit_timeout_s, AWAY_TIMEOUT_S if away else math.inf)
                logged.append(trial.log(recipe, shown, finish_timeout_s=wait_s))
        return logged

    def _tell_delivery(self, logged: Sequence[Logged]) -> bool:
        """Say what the server has; True if it has everything."""
        delivered, pending, quarantined = (
            sum(getattr(one, count) for one in logged) for count in ("delivered", "pending", "quarantined")
        )
        refused = f", {quarantined:,} refused by the server and kept in quarantine" if quarantined else ""
        complete = not pending and not quarantined
        self._say(
            f"\n{self._settings.url}: {delivered:,} points delivered, {pending:,} pending{refused}.",
            style="green" if complete else "bold yellow",
        )
        return complete

    def _read_back(self, logged: Sequence[Logged], *, try_server: bool) -> tuple[list[RunRecord], bool]:
        """The runs from the server if it has them, else from the journal; and whether it was the server."""
        names = [one.run for one in logged]
        if try_server:
            try:
                return read_runs(reader.open_server(self._settings), EXPERIMENT, names), True
            except (ServerError, QueryError) as error:
                self._say(f"Reading back from {self._settings.url} failed: {error}", style="bold yellow")
        return read_runs(reader.open_journal(self._settings.dir), EXPERIMENT, names), False

    def _compare(self, logged: Sequence[Logged], records: Sequence[RunRecord]) -> bool:
        """Print the table; True if all values that were logged were read back."""
        if records:
            self._console.print("", comparison_table(records), "", sep="\n")
        for sentence in nonfinite_sentences(records):
            self._say(sentence, style="red")
        if all(record.curve(LOSS).nonfinite_count == 0 for record in records):
            self._say(f"No loss became NaN: the run that diverges needs about {STEPS_TO_DIVERGE} steps.")
        wanted, found = sum(one.values for one in logged), sum(record.points for record in records)
        if found == wanted:
            self._say(f"{wanted:,} values logged, all read back.")
        else:
            self._say(f"{wanted:,} values logged, but {found:,} read back.", style="bold red")
        return found == wanted

    def _draw(self, records: Sequence[RunRecord]) -> None:
        if self._console.is_terminal:
            self._draw_in_terminal(records)
        picture.draw(self._output, EXPERIMENT, records)
        self._say(f"\nCurves by step: {self._output}")

    def _draw_in_terminal(self, records: Sequence[RunRecord]) -> None:
        width = min(self._console.width, CHART_COLUMNS)
        for metric, logarithmic in ((LOSS, True), ("eval/accuracy", False)):
            self._console.print(Text.from_ansi(terminal.chart(metric, records, width=width, logarithmic=logarithmic)))
        for record, (red, green, blue) in zip(records, terminal.COLOURS, strict=False):
            self._console.print(Text(f"━━ {record.run}", f"rgb({red},{green},{blue})"), end="   ")
        self._console.print("\nx  the last number: NaN or infinity from there", highlight=False)

    def _say_next(self, logged: Sequence[Logged], *, from_server: bool) -> None:
        command = _program()
        if from_server and logged[0].url:
            # A run's address is that of the dashboard of one run; of several, it is that of the one beside it.
            url = logged[0].url.replace("/d/metriclog-run?", "/d/metriclog-compare?")
            others = "".join(f"&var-run={one.run}" for one in logged[1:])
            self._say(f"\nThe same curves in Grafana:\n  {url}{others}")
            return
        self._say("\nNext:", style="bold")
        self._offer("what this journal holds", f"{command} runs")
        if not self._online:
            up = "cp .env.example .env && docker compose up -d"
            self._offer("InfluxDB and Grafana on this machine, in a clone of the repository", up)
            self._offer("the token that .env holds, for the next command", "export METRICLOG_TOKEN=...")
        self._offer("ship these runs there", f"{command} sync --url {self._settings.url or LOCAL_SERVER}")

    def _offer(self, why: str, command: str) -> None:
        self._say(f"  # {why}", style="dim")
        self._say(f"  {command}")

    def _say(self, text: str, style: str = "") -> None:
        """One line as it is: no markup, and no line breaks that would cut a path or an address."""
        self._console.print(Text(text, style), soft_wrap=True)


def _program() -> str:
    """How to type `metriclog` here: it is on PATH only in an active environment."""
    if shutil.which("metriclog"):
        return "metriclog"
    python = os.path.relpath(sys.executable) if Path(sys.executable).is_relative_to(Path.cwd()) else sys.executable
    return f"{python} -m metriclog"
