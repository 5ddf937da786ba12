"""The data source of the dashboards, as provisioning/grafana/datasources/metriclog.yaml has it, for Grafana's API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metriclog.grafana.variables import DATASOURCE_NAME, DATASOURCE_UID


def datasource(url: str, bucket: str, token: str | None) -> dict[str, Any]:
    """What Grafana needs to read `bucket` in InfluxQL; without a token, from a server that wants none."""
    settings = {"version": "InfluxQL", "dbName": bucket, "httpMode": "POST", "timeInterval": "1s"}
    made: dict[str, Any] = {"uid": DATASOURCE_UID, "name": DATASOURCE_NAME, "type": "influxdb", "access": "proxy"}
    made |= {"url": url, "jsonData": settings}
    if token is not None:
        made["jsonData"] = {**settings, "httpHeaderName1": "Authorization"}
        made["secureJsonData"] = {"httpHeaderValue1": f"Token {token}"}
    return made


def differences(theirs: Mapping[str, Any], bucket: str) -> list[str]:
    """What the dashboards need otherwise than it is set. Where InfluxDB is and how one signs in there is not ours."""
    ours = datasource("", bucket, None)
    found = [_difference(name, theirs.get(name), ours[name]) for name in ("type", "access")]
    settings = theirs.get("jsonData") or {}
    found += [_difference(f"jsonData.{name}", settings.get(name), want) for name, want in ours["jsonData"].items()]
    return [words for words in found if words]


def _difference(name: str, theirs: object, ours: object) -> str:
    return "" if theirs == ours else f"{name} is {theirs or 'not set'}, not {ours}"
