"""What tests say to an InfluxDB over HTTP: set up, write, query, buckets, tokens. Uses nothing of metriclog's."""

from __future__ import annotations

import datetime as dt
import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request

from tests.servers.answers import AnswerError, send

REQUEST_TIMEOUT_S = 30.0


class InfluxError(AnswerError):
    """From an InfluxDB; the status is 200 for an error inside a query's answer."""


@dataclass(frozen=True)
class Server:
    """The address of an InfluxDB and a token that may do everything there."""

    url: str
    token: str
    org: str

    def healthy(self) -> bool:
        """Whether the server answers and says that it is ready; no answer is no, not an error."""
        try:
            return bool(json.loads(self.call("GET", "/health"))["status"] == "pass")
        except (OSError, HTTPException, InfluxError):
            return False

    def call(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        expect: int = 200,
    ) -> bytes:
        """The body of one answer. Raises InfluxError unless its status is the expected one."""
        query = f"?{urlencode(params)}" if params else ""
        headers = {"Authorization": f"Token {self.token}"}
        request = Request(f"{self.url}{path}{query}", data=body, headers=headers, method=method)
        status, content = send(request, REQUEST_TIMEOUT_S)
        if status != expect:
            raise InfluxError(f"{method} {path}", status, content.decode(errors="replace"))
        return content

    def call_json(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, send: object = None, expect: int = 200
    ) -> Any:
        """As `call`, with JSON both ways."""
        body = None if send is None else json.dumps(send).encode()
        return json.loads(self.call(method, path, params, body, expect))

    def set_up(self, bucket: str) -> None:
        """The first steps of a new server: user, organisation, bucket, token. Raises where they have been done."""
        who = {"username": "metriclog", "password": secrets.token_urlsafe(16)}
        send = {**who, "org": self.org, "bucket": bucket, "token": self.token}
        self.call_json("POST", "/api/v2/setup", send=send, expect=201)


class Influx:
    """One bucket on a server, with what a test does to it. All times are ns."""

    def __init__(self, server: Server, bucket: str) -> None:
        self._server = server
        self.url = server.url
        self.token = server.token
        self.org = server.org
        self.bucket = bucket
        self._token_ids: dict[str, str] = {}

    def write(self, lines: str | bytes) -> None:
        """Writes line protocol, times in ns. Raises InfluxError unless the server answers 204."""
        body = lines.encode() if isinstance(lines, str) else lines
        params = {"org": self.org, "bucket": self.bucket, "precision": "ns"}
        self._server.call("POST", "/api/v2/write", params, body, expect=204)

    def query(self, influxql: str, *, epoch: str = "ns") -> dict[str, Any]:
        """The answer of POST /query as it came. Raises InfluxError also for an error inside a 200."""
        body = urlencode({"q": influxql}).encode()
        params = {"db": self.bucket, "epoch": epoch}
        answer: dict[str, Any] = json.loads(self._server.call("POST", "/query", params, body))
        for result in (answer, *answer.get("results", [])):
            if "error" in result:
                raise InfluxError(f"query {influxql}", 200, str(result["error"]))
        return answer

    def rows(self, influxql: str) -> list[dict[str, Any]]:
        """The same, flat: one dict a row over all statements and series, tags and columns merged."""
        results = self.query(influxql)["results"]
        return [
            {**series.get("tags", {}), **dict(zip(series["columns"], values, strict=True))}
            for result in results
            for series in result.get("series", [])
            for values in series.get("values", [])
        ]

    def create_bucket(self, *, retention_s: int = 0) -> None:
        """Makes the bucket; 0 keeps its points for ever, otherwise at least 3600."""
        rules = [{"type": "expire", "everySeconds": retention_s}] if retention_s else []
        send = {"orgID": self._org_id(), "name": self.bucket, "retentionRules": rules}
        self._server.call_json("POST", "/api/v2/buckets", send=send, expect=201)

    def delete_bucket(self) -> None:
        """Deletes the bucket and its points; a missing one is fine."""
        if bucket_id := self._bucket_id():
            self._server.call("DELETE", f"/api/v2/buckets/{bucket_id}", expect=204)

    def delete_point(self, measurement: str, tag: str, value: str, time_ns: int) -> None:
        """Deletes the points of a measurement with this tag at this instant."""
        day, rest_ns = dt.datetime.fromtimestamp(time_ns // 10**9, dt.UTC), time_ns % 10**9
        moment = f"{day:%Y-%m-%dT%H:%M:%S}.{rest_ns:09d}Z"
        send = {"start": moment, "stop": moment, "predicate": f'_measurement="{measurement}" AND {tag}="{value}"'}
        params = {"org": self.org, "bucket": self.bucket}
        self._server.call("POST", "/api/v2/delete", params, json.dumps(send).encode(), expect=204)

    def create_token(self, *, read: bool = True, write: bool = True) -> str:
        """A new token for this bucket alone; `write=False` gives one that may only read."""
        org_id, bucket_id = self._org_id(), self._bucket_id()
        actions = [action for action, wanted in (("read", read), ("write", write)) if wanted]
        resource = {"type": "buckets", "id": bucket_id, "orgID": org_id}
        permissions = [{"action": action, "resource": resource} for action in actions]
        send = {"orgID": org_id, "permissions": permissions}
        made = self._server.call_json("POST", "/api/v2/authorizations", send=send, expect=201)
        self._token_ids[str(made["token"])] = str(made["id"])
        return str(made["token"])

    def revoke(self, token: str) -> None:
        """Takes the rights from a token that `create_token` made, until `give_back`."""
        self._server.call_json("PATCH", f"/api/v2/authorizations/{self._token_ids[token]}", send={"status": "inactive"})

    def give_back(self, token: str) -> None:
        """Gives a revoked token its rights again."""
        self._server.call_json("PATCH", f"/api/v2/authorizations/{self._token_ids[token]}", send={"status": "active"})

    @property
    def id(self) -> str:
        """The bucket's id, by which InfluxDB names its folder. KeyError if there is no such bucket."""
        found = self._bucket_id()
        if found is None:
            raise KeyError(self.bucket)
        return found

    def _org_id(self) -> str:
        found = self._server.call_json("GET", "/api/v2/orgs", params={"org": self.org})
        return str(found["orgs"][0]["id"])

    def _bucket_id(self) -> str | None:
        params = {"org": self.org, "name": self.bucket}
        found = self._server.call_json("GET", "/api/v2/buckets", params=params)["buckets"]
        return str(found[0]["id"]) if found else None


@contextmanager
def new_bucket(server: Server) -> Iterator[Influx]:
    """An empty bucket of one's own; gone afterwards, with its points."""
    bucket = Influx(server, f"test-{secrets.token_hex(6)}")
    bucket.create_bucket()
    try:
        yield bucket
    finally:
        bucket.delete_bucket()
