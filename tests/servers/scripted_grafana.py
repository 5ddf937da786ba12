"""As much of Grafana's HTTP API as `metriclog provision` uses, on loopback; each request can be told to fail."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.servers.scripted import Answer, ScriptedServer, says, serving

Json = dict[str, Any]
NOT_FOUND = (404, {"message": "not found"})
DENIED = (403, {"message": "Permissions needed: some:right"})


class ScriptedGrafana:
    """Keeps what it is given, as Grafana does. `instead` maps "METHOD path" to the answer to give."""

    def __init__(self) -> None:
        self.dashboards: dict[str, Json] = {}
        self.folders: dict[str, Json] = {}
        self.sources: dict[str, Json] = {}
        self.instead: dict[str, Answer] = {}
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.url = ""

    def put(self, dashboard: Json, *, folder: str = "", provisioned: bool = False) -> None:
        """Stores a dashboard with what Grafana adds to it."""
        number, stored = len(self.dashboards) + 1, self.dashboards.get(dashboard["uid"])
        version = stored["dashboard"]["version"] + 1 if stored else 1
        whole = {**dashboard, "id": number, "version": version}
        self.dashboards[dashboard["uid"]] = {
            "dashboard": whole,
            "meta": {"folderUid": folder, "provisioned": provisioned},
        }

    def writes(self) -> list[str]:
        """What was asked of it beside reading."""
        return [f"{method} {path}" for method, path, _, _ in self.requests if method != "GET"]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answers one request."""
        server = handler.server
        assert isinstance(server, ScriptedServer)
        method, path, _, body = server.requests[-1]
        if (told := self.instead.get(f"{method} {path}")) is not None:
            told(handler)
            return
        status, said = self._post(path, json.loads(body)) if method == "POST" else self._get(path)
        says(status, json.dumps(said).encode(), content_type="application/json")(handler)

    def _get(self, path: str) -> tuple[int, Json]:
        if path == "/api/health":
            return 200, {"database": "ok", "version": "12.3.0"}
        if path == "/api/user":
            return 200, {"login": "sa-1-test"}
        if found := re.fullmatch(r"/api/datasources/uid/([\w-]+)/health", path):
            return (200, {"status": "OK"}) if found[1] in self.sources else NOT_FOUND
        for prefix, things in (
            ("/api/dashboards/uid/", self.dashboards),
            ("/api/folders/", self.folders),
            ("/api/datasources/uid/", self.sources),
        ):
            if path.startswith(prefix) and path.removeprefix(prefix) in things:
                return 200, things[path.removeprefix(prefix)]
        return NOT_FOUND

    def _post(self, path: str, sent: Json) -> tuple[int, Json]:
        if path == "/api/folders":
            self.folders[sent["uid"]] = sent
            return 200, sent
        if path == "/api/datasources":
            self.sources[sent["uid"]] = {key: value for key, value in sent.items() if key != "secureJsonData"}
            return 200, {"message": "Datasource added"}
        uid = sent["dashboard"]["uid"]
        stored = self.dashboards.get(uid)
        if stored and stored["meta"]["provisioned"]:
            return 400, {"message": "Cannot save provisioned dashboard"}
        if stored and not sent["overwrite"]:
            return 412, {"message": "The dashboard has been changed by someone else"}
        if sent["folderUid"] and sent["folderUid"] not in self.folders:
            return 400, {"message": "folder not found"}
        self.put(sent["dashboard"], folder=sent["folderUid"])
        return 200, {"uid": uid, "status": "success"}


@contextmanager
def scripted_grafana() -> Iterator[ScriptedGrafana]:
    """An empty one on a free port."""
    grafana = ScriptedGrafana()
    with serving(grafana.answer) as server:
        grafana.url, grafana.requests = server.url, server.requests
        yield grafana


def denied() -> Answer:
    """What Grafana says to who may not."""
    return says(DENIED[0], json.dumps(DENIED[1]).encode())
