"""The command `metriclog provision`: files into a folder, dashboards into a Grafana that runs."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metriclog import provision as provisioning
from metriclog.errors import UsageError
from metriclog.printing import print_json, say
from metriclog.settings import Settings

if TYPE_CHECKING:
    from metriclog.grafana.client import Grafana
    from metriclog.grafana.install import Finding, Outcome


def provision(
    directory: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Write the files into this folder.", show_default=False)
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Say what differs in a running Grafana.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Put the dashboards into a running Grafana.")] = False,
    url: Annotated[str | None, typer.Option(help="Grafana's address; else METRICLOG_GRAFANA_URL.")] = None,
    token: Annotated[
        str | None,
        typer.Option(help="Service account token; better METRICLOG_GRAFANA_TOKEN, which `ps` does not show."),
    ] = None,
    influx_url: Annotated[
        str | None,
        typer.Option(
            help="Where Grafana finds InfluxDB, to add the data source with METRICLOG_TOKEN; else METRICLOG_URL."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also over what you or others changed or made.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write compose file, provisioning and dashboards to a folder, or the dashboards into a Grafana that you run.

    DIR: what is missing is written, and what is still as metriclog wrote it; a file that you changed is kept.
    --check changes nothing; exit code 1 if something differs.
    --apply overwrites our dashboards (our uid and the tag metriclog) and leaves everything else alone; exit code 1 if
    one could not be put in. A data source is added if there is none, never altered.
    Alert rules are only files in DIR, which Grafana reads when it starts: --check and --apply know nothing of them.
    """
    if (directory is not None) + check + apply != 1:
        raise UsageError("give one of these: a folder to write the files to, --check, --apply")
    if directory is not None:
        _write(directory, force, as_json)
        return
    given = {"grafana_url": url, "grafana_token": token, "url": influx_url}
    settings = Settings.load(**{name: value for name, value in given.items() if value is not None})
    from metriclog.grafana.client import Grafana  # urllib3

    grafana = Grafana(settings)
    version = grafana.version()
    grafana.check_token()
    if not as_json:
        say(f"Grafana {version} at {grafana.address}")
    well = _check(grafana, settings, as_json) if check else _apply(grafana, settings, force, as_json)
    raise typer.Exit(0 if well else 1)


def _write(directory: Path, force: bool, as_json: bool) -> None:
    report = provisioning.write(directory, force=force)
    if as_json:
        print_json(asdict(report))
        return
    for name in report.wrote:
        say(f"wrote {name}" + (", with secrets of its own that only you can read" if name == ".env" else ""))
    for name in report.kept:
        say(f"kept {name}: it is not as metriclog wrote it; --force overwrites it")
    for name in report.obsolete:
        say(f"{name} no longer comes with metriclog: delete it unless you want it")
    if report.same:
        say(f"{len(report.same)} files were there already")
    for note in report.notes:
        say(note)
    say(f"InfluxDB and Grafana start with: cd {shlex.quote(str(directory))} && docker compose up -d")


def _check(grafana: Grafana, settings: Settings, as_json: bool) -> bool:
    from metriclog.grafana import install

    source = install.check_datasource(grafana, settings)
    findings = install.check(grafana, provisioning.shipped_dashboards())
    differing = sum(finding.state != "equal" for finding in (source, *findings))
    if as_json:
        boards = [asdict(finding) for finding in findings]
        print_json({"grafana": grafana.address, "datasource": asdict(source), "dashboards": boards})
        return not differing
    _say_all(_found("data source", source))
    for finding in findings:
        _say_all(_found("dashboard", finding))
    say("nothing differs" if not differing else f"{differing} of {len(findings) + 1} differ")
    return not differing


def _found(kind: str, finding: Finding) -> Iterator[str]:
    words = {"foreign": "has our uid but not our tag: somebody else made it", "hidden": f"unknown: {finding.why}"}
    read_from = ", read from a file by Grafana" if finding.file_managed else ""
    yield f"{kind} {finding.title} ({finding.uid}{read_from}): {words.get(finding.state, finding.state)}"
    yield from (f"  {where}: {', '.join(what)}" for where, what in finding.differences.items())


def _apply(grafana: Grafana, settings: Settings, force: bool, as_json: bool) -> bool:
    from metriclog.grafana import install

    def outcomes() -> Iterator[tuple[str, Outcome]]:
        yield "data source", install.apply_datasource(grafana, settings)
        dashboards = provisioning.shipped_dashboards()
        yield from (("dashboard", one) for one in install.apply(grafana, dashboards, force=force))

    rows: list[dict[str, Any]] = []
    for kind, outcome in outcomes():  # each is said once it is done: a later one may end the command
        rows.append({"kind": kind, **asdict(outcome)})
        if not as_json:
            why = f": {outcome.why}" if outcome.why else ""
            say(f"{kind} {outcome.title} ({outcome.uid}): {outcome.done}{why}")
    if as_json:
        print_json({"grafana": grafana.address, "outcomes": rows})
    return not any(row["failed"] for row in rows)


def _say_all(lines: Iterable[str]) -> None:
    for line in lines:
        say(line)
