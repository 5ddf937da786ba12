"""What tests say to a Grafana over HTTP: data sources, dashboards, queries as its pages send them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import quote
from urllib.request import Request

from tests.servers import answers
from tests.servers.answers import AnswerError
from tests.servers.api import Influx

REQUEST_TIMEOUT_S = 60.0


class GrafanaError(AnswerError):
    """From a Grafana."""


@dataclass(frozen=True)
class Grafana:
    """The address of a Grafana where we may administer: anonymously, or with a service account's token."""

    url: str
    token: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What every request must carry."""
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}

    def healthy(self) -> bool:
        """Whether it answers and its database works."""
        try:
            return bool(self.call("GET", "/api/health")["database"] == "ok")
        except (OSError, HTTPException, GrafanaError, ValueError):
            return False

    def call(self, method: str, path: str, send: object = None, *, expect: int = 200) -> Any:
        """The answer as JSON. Raises GrafanaError unless its status is the expected one."""
        body = None if send is None else json.dumps(send).encode()
        headers = {**self.headers, "Content-Type": "application/json"}
        request = Request(f"{self.url}{path}", data=body, headers=headers, method=method)
        status, content = answers.send(request, REQUEST_TIMEOUT_S)
        if status != expect:
            raise GrafanaError(f"{method} {path}", status, content.decode(errors="replace"))
        return json.loads(content)

    @contextmanager
    def source(self, influx: Influx, label: str) -> Iterator[str]:
        """A data source for one bucket, set as the provisioned one is; gives its uid, and removes it afterwards."""
        uid = f"test-{secrets.token_hex(6)}"
        self.call("POST", "/api/datasources", {**_source(influx), "uid": uid, "name": f"{label} {uid[-4:]}"})
        try:
            yield uid
        finally:
            self.call("DELETE", f"/api/datasources/uid/{uid}")

    def dashboard(self, uid: str) -> Any:
        """`dashboard` and `meta` as the page gets them."""
        return self.call("GET", f"/api/dashboards/uid/{quote(uid)}")

    def query(self, targets: Sequence[Mapping[str, Any]], from_ms: int, to_ms: int) -> Any:
        """`results` by refId of panel targets whose variables have been replaced. Raises GrafanaError for any error."""
        send = {"from": str(from_ms), "to": str(to_ms), "queries": list(targets)}
        return self.call("POST", "/api/ds/query", send)["results"]


def _source(influx: Influx) -> dict[str, Any]:
    settings = {"version": "InfluxQL", "dbName": influx.bucket, "httpMode": "POST", "timeInterval": "1s"}
    return {
        "type": "influxdb",
        "access": "proxy",
        "url": influx.url,
        "jsonData": {**settings, "httpHeaderName1": "Authorization"},
        "secureJsonData": {"httpHeaderValue1": f"Token {influx.token}"},
    }
