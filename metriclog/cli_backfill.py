"""The command `metriclog backfill`: roll-ups and summaries for runs that lack them."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from metriclog.errors import UsageError
from metriclog.printing import print_json, say
from metriclog.settings import Settings
from metriclog.transport import Transport


class Source(StrEnum):
    """Where the points are read."""

    server = "server"
    journal = "journal"


def backfill(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Only these.", show_default=False)
    ] = None,
    source: Annotated[Source, typer.Option("--from", help="Where the points are read.")] = Source.server,
    everything: Annotated[bool, typer.Option("--all", help="Also runs that have them.")] = False,
    path: Annotated[
        Path | None, typer.Option("--dir", help="Journal directory; else METRICLOG_DIR.", show_default=False)
    ] = None,
    url: Annotated[str | None, typer.Option(help="InfluxDB address; else METRICLOG_URL.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make roll-ups and summaries for runs that lack them: shipped by an older metriclog, or imported. Safe twice.

    A run that goes on is left alone. Exit code 1 if points were refused or a run could not be read.
    """
    from metriclog.backfill import Backfill  # numpy

    given: dict[str, Any] = {"url": url, "dir": path}
    settings = Settings.load(**{name: value for name, value in given.items() if value is not None})
    settings.check_online()
    if source is Source.journal and not settings.dir.is_dir():
        raise UsageError(f"{settings.dir} is no directory; give the one that METRICLOG_DIR named for the run, as --dir")
    done = []
    for one in Backfill(settings.dir, Transport(settings), source.value).run(runs or (), everything=everything):
        done.append(one)
        if not as_json:
            say(f"{one.run}: {_words(asdict(one))}")
    if as_json:
        print_json([asdict(one) for one in done])
    elif not done:
        say("no run lacks its roll-ups")
    raise typer.Exit(1 if any(one.failed for one in done) else 0)


def _words(one: dict[str, Any]) -> str:
    wrote = f"wrote {one['rollups']:,} points of roll-ups, {one['summaries']:,} of summaries"
    return "; ".join(filter(None, [wrote if one["rollups"] or not one["note"] else "", one["note"] or ""]))
