"""A Grafana that runs our alert rules quickly and tells a webhook on loopback, which keeps what it is told."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers import grafana as grafana_servers
from tests.servers.api import Influx, Server, new_bucket
from tests.servers.grafana_api import Grafana
from tests.servers.influxdb import Image
from tests.servers.scripted import ScriptedServer, says, serving

Json = dict[str, Any]
NOTIFICATIONS = grafana_servers.ROOT / "provisioning" / "compose" / "notifications.yaml"
INTERVAL_S = 10
_DEADLINE_S = 200.0
_LOOK_S = 0.2


@dataclass(frozen=True)
class Page:
    """One message: what it groups, whether it says firing or resolved, and its alerts."""

    status: str
    group: dict[str, str]
    alerts: list[Json]


@dataclass(frozen=True)
class Paging:
    """The Grafana, the bucket its data source reads, and the webhook."""

    grafana: Grafana
    influx: Influx
    webhook: ScriptedServer

    def pages(self) -> list[Page]:
        """Every message so far."""
        said = [json.loads(body) for _, _, _, body in self.webhook.requests]
        return [Page(one["status"], one["groupLabels"], one["alerts"]) for one in said]

    def wait(
        self, until: Callable[[list[Page]], bool], meanwhile: Callable[[], None], limit_s: float = _DEADLINE_S
    ) -> list[Page]:
        """The messages once they are enough; `meanwhile` is called again and again. Raises TimeoutError."""
        deadline_s = time.monotonic() + limit_s
        while not until(self.pages()):
            if time.monotonic() > deadline_s:
                rules = self.grafana.call("GET", "/api/prometheus/grafana/api/v1/rules")["data"]["groups"]
                states = [(rule["name"], rule["state"], rule["health"]) for group in rules for rule in group["rules"]]
                told = [(page.status, page.group) for page in self.pages()]
                raise TimeoutError(f"after {limit_s} s these were told: {told}; the rules: {states}")
            meanwhile()
            time.sleep(_LOOK_S)
        return self.pages()


@contextmanager
def paging_grafana(source: grafana_servers.Home | Image, influx: Server, folder: Path) -> Iterator[Paging]:
    """Starts one, with a bucket of its own."""
    with new_bucket(influx) as bucket, serving(says(200)) as webhook:
        quick_copy(folder / "provisioning", bucket.bucket)
        settings = {
            "METRICLOG_ALERT_TYPE": "webhook",
            "METRICLOG_ALERT_WEBHOOK": f"{webhook.url}/page",
            # For so long after a start Grafana tells those of its default policy.
            "GF_UNIFIED_ALERTING_ALERTMANAGER_CONFIG_POLL_INTERVAL": "2s",
        }
        given = grafana_servers.Given(folder / "provisioning", settings)
        with grafana_servers.running(source, influx, given) as grafana:
            yield Paging(grafana, bucket, webhook)


def quick_copy(folder: Path, bucket: str) -> None:
    """Our provisioning with other times, on another bucket; what the rules ask stays as it is."""
    shutil.copytree(grafana_servers.PROVISIONING, folder)
    shutil.copy(NOTIFICATIONS, folder / "alerting")
    _replace(folder / "datasources" / "metriclog.yaml", [("dbName: metriclog", f"dbName: {bucket}")])
    every = f"{INTERVAL_S}s"
    _replace(
        folder / "alerting" / "metriclog.yaml", [("interval: '60s'", f"interval: '{every}'"), ("'120s'", f"'{every}'")]
    )
    waits = [("group_wait: 10s", "group_wait: 1s"), ("group_interval: 5m", f"group_interval: {every}")]
    _replace(folder / "alerting" / NOTIFICATIONS.name, waits)


def _replace(path: Path, changes: list[tuple[str, str]]) -> None:
    text = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert re.search(re.escape(old), text), f"{path} has no {old}"
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
