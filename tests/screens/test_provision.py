"""`metriclog provision --check` and `--apply` in a real Grafana, in a folder and under uids of the test's own."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from metriclog import provision
from metriclog.errors import GrafanaError
from metriclog.grafana import datasource, install
from metriclog.grafana.client import Grafana as Client
from metriclog.settings import Settings
from tests.servers.api import Influx
from tests.servers.grafana_api import Grafana

Json = dict[str, Any]


def client(grafana: Grafana, token: str | None = None) -> Client:
    return Client(Settings(grafana_url=grafana.url, grafana_token=token or grafana.token))  # type: ignore[arg-type]


def shipped_under(suffix: str) -> list[Json]:
    """Our dashboards under uids that no other test has."""
    return [{**board, "uid": f"{board['uid'][:26]}-{suffix}"} for board in provision.shipped_dashboards()]


@dataclass
class Place:
    """Dashboards and a folder of the test's own in a Grafana."""

    grafana: Grafana
    boards: list[Json]
    folder: install.Folder

    def states(self, token: str | None = None) -> list[str]:
        return [finding.state for finding in install.check(client(self.grafana, token), self.boards)]

    def apply(self, token: str | None = None, *, force: bool = False) -> list[str]:
        outcomes = install.apply(client(self.grafana, token), self.boards, force=force, folder=self.folder)
        return [outcome.done for outcome in outcomes]

    def all(self, word: str) -> list[str]:
        return [word] * len(self.boards)

    def save(self, board: Json) -> None:
        """As somebody else saves it."""
        body = {"dashboard": {**board, "id": None}, "folderUid": self.folder.uid, "overwrite": True}
        self.grafana.call("POST", "/api/dashboards/db", body)


@pytest.fixture
def place(grafana: Grafana) -> Iterator[Place]:
    suffix = secrets.token_hex(6)
    yield Place(grafana, shipped_under(suffix), install.Folder(f"test-{suffix}", f"test {suffix}"))
    with ExitStack() as clean_up:
        clean_up.callback(_delete, grafana, f"/api/folders/test-{suffix}")
        for board in shipped_under(suffix):
            clean_up.callback(_delete, grafana, f"/api/dashboards/uid/{board['uid']}")


def _delete(grafana: Grafana, path: str) -> None:
    try:
        grafana.call("DELETE", path)
    except Exception as error:
        if getattr(error, "status", None) != 404:
            raise


@pytest.fixture
def token_for(grafana: Grafana) -> Iterator[Callable[[str], str]]:
    """Makes a token of a role, which ends with the test."""
    made: list[int] = []

    def token_for(role: str) -> str:
        account = {"name": f"test-{secrets.token_hex(6)}", "role": role}
        made.append(grafana.call("POST", "/api/serviceaccounts", account, expect=201)["id"])
        return str(grafana.call("POST", f"/api/serviceaccounts/{made[-1]}/tokens", {"name": account["name"]})["key"])

    yield token_for
    for number in made:
        grafana.call("DELETE", f"/api/serviceaccounts/{number}")


def test_dashboards_that_grafana_read_from_our_files_are_equal(grafana: Grafana) -> None:
    findings = install.check(client(grafana), provision.shipped_dashboards())
    if not all(finding.file_managed for finding in findings):
        pytest.skip("this Grafana does not read the dashboards of this repository")
    assert {finding.state for finding in findings} == {"equal"}
    assert {outcome.done for outcome in install.apply(client(grafana), provision.shipped_dashboards())} == {"unchanged"}


def test_apply_makes_them_and_a_second_time_does_nothing(place: Place) -> None:
    assert place.states() == place.all("missing")
    assert place.apply() == place.all("created")
    assert place.states() == place.all("equal")
    assert place.apply() == place.all("unchanged")
    for board in place.boards:
        stored = place.grafana.dashboard(board["uid"])
        assert (stored["meta"]["folderUid"], stored["meta"]["version"]) == (place.folder.uid, 1)


def test_an_edit_is_found_and_undone_and_nothing_else_touched(place: Place) -> None:
    place.apply()
    edited = copy.deepcopy(place.boards[0])
    panel = edited["panels"][0]
    was, panel["title"] = panel["title"], "Mine"
    place.save(edited)
    finding, *others = install.check(client(place.grafana), place.boards)
    assert (finding.state, finding.differences) == ("differs", {f'panel {panel["id"]} "{was}"': ["title"]})
    assert {other.state for other in others} <= {"equal"}
    assert place.apply() == ["updated", *place.all("unchanged")[1:]]
    assert place.states() == place.all("equal")


def test_what_somebody_else_made_under_our_uid_stays_until_forced(place: Place) -> None:
    place.apply()
    foreign = {"uid": place.boards[0]["uid"], "title": f"Theirs {secrets.token_hex(4)}", "tags": ["x"], "panels": []}
    place.save(foreign)
    assert place.states()[0] == "foreign"
    assert place.apply()[0] == "left alone"
    assert place.grafana.dashboard(foreign["uid"])["dashboard"]["title"] == foreign["title"]
    assert place.apply(force=True)[0] == "updated"
    assert place.states() == place.all("equal")


def test_an_editor_may_apply_and_a_viewer_may_only_check(place: Place, token_for: Callable[[str], str]) -> None:
    # In this order: what a role may do Grafana keeps in mind for a minute, so that new dashboards come too late for it.
    assert place.apply(token_for("Editor")) == place.all("created")
    viewer = token_for("Viewer")
    assert place.states(viewer) == place.all("equal")
    place.save({**place.boards[0], "title": "Mine"})
    with pytest.raises(GrafanaError, match=r"403: .*Editor for --apply") as caught:
        place.apply(viewer)
    assert caught.value.status == 403
    assert place.states(viewer)[0] == "differs"


def test_a_wrong_token_is_said(grafana: Grafana, token_for: Callable[[str], str]) -> None:
    with pytest.raises(GrafanaError, match=r"does not take this token: .*Check METRICLOG_GRAFANA_TOKEN"):
        client(grafana, "glsa_wrong").check_token()
    client(grafana, token_for("Viewer")).check_token()


@pytest.mark.parametrize("token_works", [True, False])
def test_the_data_source_that_apply_adds_is_one_that_answers(
    grafana: Grafana, influx: Influx, token_works: bool, request: pytest.FixtureRequest
) -> None:
    uid = f"test-{secrets.token_hex(6)}"
    made = datasource.datasource(influx.url, influx.bucket, influx.token if token_works else "wrong")
    ours = client(grafana)
    request.addfinalizer(lambda: grafana.call("DELETE", f"/api/datasources/uid/{uid}"))
    ours.add_datasource({**made, "uid": uid, "name": uid})
    stored = ours.datasource(uid)
    assert stored is not None
    assert datasource.differences(stored, influx.bucket) == []
    trouble = ours.datasource_trouble(uid)
    assert (trouble is None) == token_works, trouble
    assert influx.token not in str(stored)


def _uids(boards: Sequence[Json]) -> list[str]:
    return [board["uid"] for board in boards]


def test_uids_of_the_tests_are_as_long_as_grafana_allows() -> None:
    boards = shipped_under(secrets.token_hex(6))
    assert len(set(_uids(boards))) == len(boards)
    assert all(len(uid) <= 40 for uid in _uids(boards))
