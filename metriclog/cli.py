"""The command `metriclog`. Arguments in, tables or JSON out; the work is done elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from metriclog import quarantine
from metriclog.acks import forget_ack, load_ack, save_ack
from metriclog.background import is_pending, ship_directory
from metriclog.cli_backfill import backfill
from metriclog.cli_provision import provision
from metriclog.directory import process_directories
from metriclog.errors import JournalError, MetriclogError, RejectedError, ServerError, TransientError, UsageError
from metriclog.leftover_alerts import post_leftovers
from metriclog.posting import Webhook
from metriclog.printing import plain, print_json
from metriclog.segments import position_of, segment_numbers
from metriclog.sender import Control, Sender
from metriclog.settings import Settings
from metriclog.shipper import shipping_lock
from metriclog.status import State, collect, count_pending, save_trouble
from metriclog.transport import Transport

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
out = Console()

REQUEUE_PATIENCE_S = 30.0  # without a yes
POST_PATIENCE_S = 10.0

Url = Annotated[str | None, typer.Option(help="InfluxDB address; else METRICLOG_URL. The token is METRICLOG_TOKEN.")]
Dir = Annotated[Path | None, typer.Argument(help="Journal directory; else METRICLOG_DIR.", show_default=False)]
Dirs = Annotated[list[Path] | None, typer.Argument(help="Journal directories; else METRICLOG_DIR.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
At = Annotated[Path | None, typer.Option("--dir", help="Journal directory; else METRICLOG_DIR.", show_default=False)]


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
    _table(
        ("experiment", "run", "status", "started (UTC)", "steps", "parameters"),
        rows,
        "no runs here yet; start one with metriclog.init() or: metriclog demo",
    )


@app.command()
def sync(
    paths: Dirs = None,
    url: Url = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on for ever, also on live runs.")] = False,
    give_up_after_s: Annotated[float, typer.Option(help="Without --watch: stop after so long without a yes.")] = 30.0,
    again: Annotated[
        bool, typer.Option("--again", help="Send all that is still in the journals: to a server that lost it.")
    ] = False,
) -> None:
    """Ship what is left in journal directories. Safe twice, and beside live runs; exit code 1 if something is left."""
    settings = _settings(url=url)
    settings.check_online()
    roots = paths or [settings.dir]
    for root in roots:
        if not root.is_dir():
            raise UsageError(f"{root} is no directory; give the directory that METRICLOG_DIR named for the run")
    target = Transport(settings)
    control = Control(give_up_after_s=None if watch else give_up_after_s)
    kept = _forget_acks(roots, target.target) if again else []
    before = _totals(roots, target.target)
    left = kept + _ship_all(roots, target, control, settings) + _post_alerts(roots, settings)
    while watch:
        time.sleep(settings.flush_interval_s)
        left = _ship_all(roots, target, control, settings) + _post_alerts(roots, settings)
    after = _totals(roots, target.target)
    counts = f"delivered {after[0] - before[0]} points to {target.address}, quarantined {after[1] - before[1]}"
    plain.print(counts, soft_wrap=True)
    if left:
        where = ", ".join(map(str, roots))
        plain.print(f"not everything is delivered; it stays in {where}. {'. '.join(left)}", soft_wrap=True)
        raise typer.Exit(1)


@app.command()
def status(path: Dir = None, url: Url = None, as_json: Json = False) -> None:
    """Say per process what is delivered, pending since when and why, quarantined and where."""
    settings = _settings(url=url, dir=path)
    states = collect(settings.dir, Transport(settings).target)
    if as_json:
        print_json([asdict(state) for state in states])
        return
    rows = [_status_row(state, settings) for state in states]
    heads = ("run", "process", "alive", "accepted", "delivered", "pending", "quarantined", "dropped", "why")
    _table(heads, rows, f"no journals in {settings.dir}")
    for state in states:
        if state.quarantine_file:
            plain.print(f"quarantine of {state.run}: {state.quarantine_file}", soft_wrap=True)
        if state.journal_io == "buffered":
            plain.print(f"{state.run}: network file system, buffered: kill -9 may cost the last 0.25 s", soft_wrap=True)


@app.command()
def verify(run: str, path: At = None, url: Url = None, as_json: Json = False) -> None:
    """Prove it: compare journal and server point by point. Exit code 1 if a point is not accounted for."""
    from metriclog.verify import verify as compare

    settings = _settings(url=url, dir=path)
    settings.check_online()
    verdict = compare(settings.dir, run, Transport(settings))
    if as_json:
        print_json({**asdict(verdict), "holds": verdict.holds})
    else:
        names = ("accepted", "delivered", "pending", "quarantined", "dropped")
        trouble = ("missing", "altered", "unknown", "damaged")
        counted = [name for name in (*names, *trouble) if name in names or getattr(verdict, name)]
        _table(counted, [[f"{getattr(verdict, name):,}" for name in counted]], "")
        for difference in verdict.differences:
            plain.print(f"  {difference}", soft_wrap=True)
        words, style = ("every point is accounted for", "green") if verdict.holds else ("the counts do not hold", "red")
        plain.print(words, style=style)
    raise typer.Exit(0 if verdict.holds else 1)


@app.command("quarantine")
def quarantine_command(
    action: Annotated[str, typer.Argument(help="show, requeue (send again now) or drop (give up, counted).")],
    path: At = None,
    run: Annotated[str | None, typer.Option(help="Only this run.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show points that the server refused for good, send them again, or give them up."""
    settings = _settings(url=url, dir=path)
    target = Transport(settings)
    folders = process_directories(settings.dir, run)
    actions: dict[str, Callable[[Path, Transport], int]] = {"requeue": _requeue, "drop": _drop}
    if action == "show":
        _show_quarantine(folders, target.target, as_json)
        return
    if action not in actions:
        raise UsageError(f"quarantine {action}: use show, requeue or drop")
    if action == "requeue":
        settings.check_online()
    done = sum(actions[action](folder, target) for folder in folders)
    left = sum(len(quarantine.load(folder, target.target)) for folder in folders)
    name = "delivered" if action == "requeue" else "dropped"
    if as_json:
        print_json({name: done, "quarantined": left})
    else:
        plain.print(f"{name} {done} points, {left} still in quarantine")
    raise typer.Exit(1 if left else 0)


app.command()(backfill)
app.command()(provision)


def _show_quarantine(folders: Sequence[Path], target: str, as_json: bool) -> None:
    found = [(folder, refused) for folder in folders for refused in quarantine.load(folder, target)]
    if as_json:
        print_json([{"directory": str(folder), **asdict(refused)} for folder, refused in found])
        return
    for folder, refused in found:
        plain.print(f"{folder}\n  {refused.line}\n  {refused.reason}", soft_wrap=True)
    plain.print(f"{len(found)} points in quarantine")


@contextlib.contextmanager
def _quarantined(folder: Path, target: str) -> Iterator[list[quarantine.Refused]]:
    """What is in quarantine, while no shipper adds to it; nothing, and a word about it, while one is at work."""
    with shipping_lock(folder, target) as mine:
        waiting = quarantine.load(folder, target)
        if waiting and not mine:
            typer.echo(f"{folder.parent.name}: a process is shipping it; try again when that has ended", err=True)
        yield waiting if mine else []


def _requeue(folder: Path, target: Transport) -> int:
    with _quarantined(folder, target.target) as waiting:
        if not waiting:
            return 0
        sender = Sender(target, Control(give_up_after_s=REQUEUE_PATIENCE_S))
        reasons = dict(sender.deliver([f"{refused.line}\n".encode() for refused in waiting]))
        kept = [
            quarantine.Refused(one.line, reasons[line], one.position)
            for one in waiting
            if (line := f"{one.line}\n".encode()) in reasons
        ]
        done = len(waiting) - len(kept)
        quarantine.replace(folder, target.target, kept)
        ack = load_ack(folder, target.target)
        save_ack(folder, target.target, ack.moved(ack.position, delivered=done, quarantined=-done))
        return done


def _drop(folder: Path, target: Transport) -> int:
    with _quarantined(folder, target.target) as waiting:
        if not waiting:
            return 0
        quarantine.add(folder, target.target, waiting, kind="dropped")
        quarantine.replace(folder, target.target, [])
        ack = load_ack(folder, target.target)
        save_ack(folder, target.target, ack.moved(ack.position, quarantined=-len(waiting)))
        return len(waiting)


def _forget_acks(roots: Sequence[Path], target: str) -> list[str]:
    """Make everything that is still in the journals pending again; which ones could not be, in words."""
    left = []
    for folder in (folder for root in roots for folder in process_directories(root)):
        with shipping_lock(folder, target) as mine:
            if not mine:
                left.append(f"{folder.parent.name}: another process is shipping it; nothing of it was sent again")
                continue
            forget_ack(folder, target)
            first = position_of(min(segment_numbers(folder), default=1 << 20), 0)
            for kind in ("quarantine", "dropped"):  # the server judges these points anew
                gone = [one for one in quarantine.load(folder, target, kind) if one.position <= first]
                quarantine.replace(folder, target, gone, kind)
    return left


def _ship_all(roots: Sequence[Path], target: Transport, control: Control, settings: Settings) -> list[str]:
    """Ship every directory that has something pending; what is left, and why, in words."""
    folders, left = _find_pending(roots, target.target)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True, disable=not folders or not out.is_terminal) as progress:
        for folder in folders:
            total = count_pending(folder, target.target)
            task = progress.add_task(folder.parent.name, total=total)
            try:
                wrong = _ship_one(folder, target, control, settings, partial(progress.advance, task))
                _leave_word([] if wrong else [folder], target.target, None)
                left += wrong
            except (TransientError, RejectedError) as error:  # the others would fare no better
                _leave_word(folders[folders.index(folder) :], target.target, str(error))
                return [*left, str(error)]
            except ServerError as error:
                _leave_word([folder], target.target, str(error))
                left.append(f"{folder.parent.name}: {error}")
    return left


def _post_alerts(roots: Sequence[Path], settings: Settings) -> list[str]:
    """Post the alerts that dead processes left, if there is a webhook; what is left, in words."""
    hook = Webhook.of(settings)
    if hook is None:
        return []
    try:
        for root in roots:
            post_leftovers(root, hook, Control(give_up_after_s=POST_PATIENCE_S), settings)
    except ServerError as error:
        return [f"alerts: {error}"]
    return []


def _leave_word(folders: Sequence[Path], target: str, words: str | None) -> None:
    """Tell `status` what the server said of these."""
    for folder in folders:
        with contextlib.suppress(OSError):
            save_trouble(folder, target, words)


def _find_pending(roots: Sequence[Path], target: str) -> tuple[list[Path], list[str]]:
    """Directories with something to ship, and what is wrong with those that cannot be read."""
    folders, unreadable = [], []
    for folder in (folder for root in roots for folder in process_directories(root)):
        try:
            folders += [folder] if is_pending(folder, target) else []
        except (JournalError, OSError) as error:
            unreadable.append(f"{folder}: {error}")
    return folders, unreadable


def _ship_one(
    folder: Path, target: Transport, control: Control, settings: Settings, advance: Callable[[int], None]
) -> list[str]:
    done = [load_ack(folder, target.target)]

    def look() -> bool:
        done.append(load_ack(folder, target.target))
        advance(done[-1].delivered + done[-1].quarantined - done[-2].delivered - done[-2].quarantined)
        return False

    try:
        shipped = ship_directory(folder, target, control, settings, pause=look)
    except (JournalError, OSError) as error:
        return [f"{folder}: {error}"]
    if not shipped:
        return [f"{folder.parent.name}: another process is shipping it"]
    return []


def _status_row(state: State, settings: Settings) -> tuple[str, ...]:
    why = state.trouble or ""
    if state.pending:
        since = datetime.fromtimestamp((state.pending_since_ns or 0) / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        reason = state.trouble or ("not shipped yet" if settings.url else "no server configured")
        why = f"since {since}: {reason}"
    counts = (state.accepted, state.delivered, state.pending, state.quarantined, state.dropped)
    alive = "yes" if state.alive else "no"
    return (state.run, f"{state.host}:{state.pid}", alive, *(f"{count:,}" for count in counts), why)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
    """Print a table whose last column gives way on a narrow terminal."""
    table = Table(box=None, header_style="bold")
    for index, name in enumerate(heads):
        last = index == len(heads) - 1 and index > 0
        width = None if last else max(len(text) for text in (name, *(row[index] for row in rows)))
        table.add_column(name, no_wrap=True, min_width=width, overflow="ellipsis" if last else "fold")
    for cells in rows:
        table.add_row(*cells)
    plain.print(table if rows else empty)


def _brief(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _settings(**given: Any) -> Settings:
    return Settings.load(**{key: value for key, value in given.items() if value is not None})


def _totals(roots: Sequence[Path], target: str) -> tuple[int, int]:
    acks = [load_ack(folder, target) for root in roots for folder in process_directories(root)]
    return sum(ack.delivered for ack in acks), sum(ack.quarantined for ack in acks)


def main() -> None:
    """Run the command; our own errors end it with one line and exit code 1, Ctrl-C with 130."""
    try:
        app()
    except MetriclogError as error:
        Console(stderr=True, markup=False, emoji=False, highlight=False).print(f"metriclog: {error}", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
