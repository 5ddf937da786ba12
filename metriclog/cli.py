"""The command `metriclog`: demo, runs, sync, status. Arguments in, tables out; the work is done elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from metriclog.acks import load_ack
from metriclog.background import is_pending, ship_directory
from metriclog.directory import process_directories, read_meta
from metriclog.errors import MetriclogError, ServerError
from metriclog.journal import owner_is_alive
from metriclog.settings import Settings
from metriclog.shipper import Control
from metriclog.transport import Transport

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
out = Console()

Url = Annotated[str | None, typer.Option(help="InfluxDB address; else METRICLOG_URL. The token is METRICLOG_TOKEN.")]
Dir = Annotated[Path | None, typer.Argument(help="Journal directory; else METRICLOG_DIR.", show_default=False)]


@app.command()
def demo(
    url: Url = None,
    steps: Annotated[int | None, typer.Option(help="Training steps a run; default: enough to converge.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where the picture goes.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of data split and weights.")] = 0,
) -> None:
    """Train four small classifiers on real data, log them, compare them; one of them diverges."""
    from metriclog.demo import run_demo  # scikit-learn and matplotlib: only who wants the demo needs them

    raise typer.Exit(run_demo(settings=_settings(url=url), steps=steps, output=output, console=out, seed=seed))


@app.command()
def runs(
    path: Dir = None,
    server: Annotated[bool, typer.Option("--server", help="Ask the server instead of the journal.")] = False,
    experiment: Annotated[str | None, typer.Option(help="Only this experiment.")] = None,
) -> None:
    """List runs: status, start, steps, parameters."""
    from metriclog import reader  # pandas

    stored = reader.open_server(_settings()) if server else reader.open_journal(path)
    rows = []
    for row in stored.runs(experiment).to_dict("records"):
        params = ", ".join(f"{key}={_brief(value)}" for key, value in row["params"].items())
        started = row["started"].strftime("%Y-%m-%d %H:%M:%S")
        rows.append((row["experiment"], row["run"], row["status"], started, str(row["steps"]), params))
    table = Table(box=None, header_style="bold")
    for index, name in enumerate(("experiment", "run", "status", "started (UTC)", "steps")):
        width = max(len(text) for text in (name, *(row[index] for row in rows)))
        table.add_column(name, no_wrap=True, min_width=width)
    table.add_column("parameters", no_wrap=True, overflow="ellipsis")  # the one that gives way on a narrow terminal
    for cells in rows:
        table.add_row(*cells)
    out.print(table if rows else "no runs here yet; start one with metriclog.init() or: metriclog demo")


@app.command()
def sync(
    path: Dir = None,
    url: Url = None,
    give_up_after_s: Annotated[float, typer.Option(help="Stop after so many seconds without a yes.")] = 30.0,
) -> None:
    """Ship what is left in a journal directory. Safe to run anywhere, twice, beside live runs."""
    settings = _settings(url=url, dir=path)
    settings.check_online()
    target = Transport(settings)
    control = Control(give_up_after_s=give_up_after_s)
    before = _delivered(settings.dir, target.target)
    failed: str | None = None
    try:
        for folder in process_directories(settings.dir):
            if is_pending(folder, target.target) and not ship_directory(folder, target, control, settings):
                out.print(f"{folder.parent.name}: its own process is shipping it")
    except ServerError as error:
        failed = str(error)
    after = _delivered(settings.dir, target.target)
    out.print(f"delivered {after[0] - before[0]} points to {target.address}, quarantined {after[1] - before[1]}")
    if failed or any(is_pending(folder, target.target) for folder in process_directories(settings.dir)):
        out.print(f"[red]not everything is delivered[/red]; it stays in {settings.dir}. {failed or ''}".strip())
        raise typer.Exit(1)


@app.command()
def status(path: Dir = None, url: Url = None) -> None:
    """Say per process directory what is delivered, pending or in quarantine, for the configured server."""
    settings = _settings(url=url, dir=path)
    target = Transport(settings).target
    table = Table("run", "process", "alive", "delivered", "quarantined", "state", box=None, header_style="bold")
    for folder in process_directories(settings.dir):
        meta = read_meta(folder) or {}
        ack = load_ack(folder, target)
        state = "pending" if is_pending(folder, target) else "all delivered"
        state = state if settings.url else "kept (no server configured)"
        alive = "yes" if owner_is_alive(folder) else "no"
        process = f"{meta.get('host', '?')}:{meta.get('pid', '?')}"
        table.add_row(folder.parent.name, process, alive, str(ack.delivered), str(ack.quarantined), state)
    out.print(table if table.row_count else f"no journals in {settings.dir}")


def _brief(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _settings(**given: Any) -> Settings:
    return Settings.load(**{key: value for key, value in given.items() if value is not None})


def _delivered(root: Path, target: str) -> tuple[int, int]:
    acks = [load_ack(folder, target) for folder in process_directories(root)]
    return sum(ack.delivered for ack in acks), sum(ack.quarantined for ack in acks)


def main() -> None:
    """Run the command; our own errors end it with one line and exit code 1."""
    try:
        app()
    except MetriclogError as error:
        Console(stderr=True).print(f"[red]metriclog:[/red] {error}", highlight=False)
        sys.exit(1)
