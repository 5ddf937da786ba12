"""Our dashboards in a running Grafana: what differs there, and putting them in; what others made is left alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from metriclog.errors import GrafanaError
from metriclog.grafana import datasource, drift
from metriclog.grafana.client import Grafana, Stored
from metriclog.grafana.variables import DATASOURCE_NAME, DATASOURCE_UID
from metriclog.settings import Settings

TAG = "metriclog"
"""A dashboard with this tag and one of our uids is ours."""

Json = dict[str, Any]
State = Literal["equal", "differs", "missing", "foreign", "hidden"]
Done = Literal["unchanged", "created", "updated", "left alone", "missing"]

_CONFLICTS = (400, 409, 412)  # about this dashboard; anything else would befall the others too


@dataclass(frozen=True)
class Folder:
    """Where new dashboards go. One that is there already stays in its folder."""

    uid: str = "metriclog"
    title: str = "metriclog"


@dataclass(frozen=True)
class Finding:
    """What a Grafana has of one thing of ours.

    `foreign`: it has our uid and somebody else made it. `hidden`: our token may not read it; `why` has Grafana's words.
    """

    uid: str
    title: str
    state: State
    differences: drift.Differences = field(default_factory=dict)
    file_managed: bool = False
    why: str = ""


@dataclass(frozen=True)
class Outcome:
    """What was done about one thing, and why not more; `failed`: it was asked for and is not there as we ship it."""

    uid: str
    title: str
    done: Done
    why: str = ""
    failed: bool = False


def check(grafana: Grafana, dashboards: Sequence[Json]) -> list[Finding]:
    """Compare each dashboard with what Grafana has under its uid. Changes nothing. Raises `GrafanaError`."""
    return [_look(grafana, ours)[0] for ours in dashboards]


def _look(grafana: Grafana, ours: Json) -> tuple[Finding, Stored | None]:
    uid, title = ours["uid"], ours["title"]
    try:
        stored = grafana.dashboard(uid)
    except GrafanaError as error:
        return _hidden(uid, title, error), None
    if stored is None:
        return Finding(uid, title, "missing"), None
    if TAG not in (stored.dashboard.get("tags") or []):
        named = str(stored.dashboard.get("title"))
        return Finding(uid, named, "foreign", file_managed=stored.file_managed), stored
    found = drift.differences(ours, stored.dashboard)
    return Finding(uid, title, "differs" if found else "equal", found, stored.file_managed), stored


def _hidden(uid: str, title: str, error: GrafanaError) -> Finding:
    if error.status != 403:
        raise error
    return Finding(uid, title, "hidden", why=str(error))


def check_datasource(grafana: Grafana, settings: Settings) -> Finding:
    """Whether the data source is there and set as the dashboards need it. Raises `GrafanaError`."""
    try:
        theirs = grafana.datasource(DATASOURCE_UID)
    except GrafanaError as error:
        return _hidden(DATASOURCE_UID, DATASOURCE_NAME, error)
    if theirs is None:
        return Finding(DATASOURCE_UID, DATASOURCE_NAME, "missing")
    found = datasource.differences(theirs, settings.bucket)
    differences = {"data source": found} if found else {}
    file_managed = bool(theirs.get("readOnly"))
    return Finding(DATASOURCE_UID, DATASOURCE_NAME, "differs" if found else "equal", differences, file_managed)


def apply(
    grafana: Grafana, dashboards: Sequence[Json], *, force: bool = False, folder: Folder | None = None
) -> Iterator[Outcome]:
    """Put each dashboard into Grafana and say at once what was done: one that is equal is not touched.

    With `force` also over a dashboard of our uid that somebody else made. Raises `GrafanaError` where going on is vain.
    """
    folder = folder or Folder()
    for ours in dashboards:
        finding, stored = _look(grafana, ours)
        reason = _reason_to_leave(finding, force)
        if finding.state == "equal":
            yield Outcome(finding.uid, finding.title, "unchanged")
        elif reason:
            yield Outcome(finding.uid, finding.title, "left alone", reason, failed=True)
        else:
            yield _save(grafana, ours, stored, folder)


def _reason_to_leave(finding: Finding, force: bool) -> str:
    if finding.file_managed:
        return "Grafana reads it from a file (provisioning) and takes it from nowhere else: change it there"
    if finding.state == "foreign" and not force:
        return f"it has our uid but not the tag {TAG}, so somebody else made it; --force overwrites it"
    return finding.why


def _save(grafana: Grafana, ours: Json, stored: Stored | None, folder: Folder) -> Outcome:
    uid, title = ours["uid"], ours["title"]
    try:
        if stored is None:
            grafana.ensure_folder(folder.uid, folder.title)
            grafana.save(ours, folder.uid, overwrite=False)
            return Outcome(uid, title, "created")
        grafana.save(ours, stored.folder_uid, overwrite=True)
        return Outcome(uid, title, "updated")
    except GrafanaError as error:
        if error.status not in _CONFLICTS:
            raise
        return Outcome(uid, title, "left alone", str(error), failed=True)


def apply_datasource(grafana: Grafana, settings: Settings) -> Outcome:
    """Add the data source if it is not there and `settings.url` names an InfluxDB. Raises `GrafanaError`."""
    finding = check_datasource(grafana, settings)
    uid, title = finding.uid, finding.title
    if finding.state == "equal":
        return Outcome(uid, title, "unchanged")
    if finding.state == "hidden":
        return Outcome(uid, title, "left alone", finding.why, failed=settings.url is not None)
    if finding.state == "differs":
        words = "; ".join(finding.differences["data source"])
        return Outcome(uid, title, "left alone", f"{words}. One that is there is never altered")
    if settings.url is None:
        return Outcome(uid, title, "missing", "--influx-url (or METRICLOG_URL) with METRICLOG_TOKEN adds it")
    token = settings.read_token()
    try:
        grafana.add_datasource(datasource.datasource(settings.url, settings.bucket, token))
    except GrafanaError as error:
        if error.status not in (403, *_CONFLICTS):  # the dashboards ask for less
            raise
        return Outcome(uid, title, "left alone", str(error), failed=True)
    sees = "with METRICLOG_TOKEN; one that can only read is enough" if token else "without a token"
    return Outcome(uid, title, "created", grafana.datasource_trouble(uid) or f"it reads {settings.url} {sees}")
