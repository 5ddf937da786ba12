"""A critical event as a message: for Slack, for Discord, or as JSON with all that is known. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from metriclog.identity import address_in_grafana
from metriclog.points import Point

DISCORD_CHARS = 2000
AROUND_S = (900, 300)  # of an event, before and after: what the link shows


@dataclass(frozen=True, slots=True)
class Alert:
    """One critical event, with what its process says of itself."""

    point: Point
    meta: dict[str, Any]
    grafana_url: str | None

    @property
    def key(self) -> str:
        """What is the same trouble at every rank."""
        tags, fields = self.point.tags, self.point.fields
        return "|".join(str(part) for part in (tags.get("kind"), tags.get("metric", ""), fields.get("title")))

    def content(self) -> dict[str, Any]:
        """All there is to know, for JSON."""
        tags, fields = self.point.tags, self.point.fields
        nonfinite = fields.get("rule") == "nonfinite" and "value" not in fields
        rank = self.meta.get("rank")
        return {
            "run": tags.get("run"),
            "experiment": tags.get("experiment"),
            "metric": tags.get("metric"),
            "rank": None if rank is None else str(rank),
            "kind": tags.get("kind"),
            "rule": fields.get("rule"),
            **{name: fields.get(name) for name in ("level", "title", "text", "step")},
            "value": str(fields["title"]).rpartition(" ")[2] if nonfinite else fields.get("value"),
            "baseline": fields.get("baseline"),
            "window": fields.get("window"),
            "count": fields.get("count"),
            "time": self.point.time_ns / 1e9,
            "url": self.url(),
        }

    def url(self) -> str | None:
        """The Run dashboard around the event; offline there is nothing to see there."""
        if self.grafana_url is None or self.meta.get("mode") != "online":
            return None
        tags, time_s = self.point.tags, self.point.time_ns // 10**9
        since_ms, until_ms = (time_s - AROUND_S[0]) * 1000, (time_s + AROUND_S[1]) * 1000
        run = tags.get("experiment", ""), tags.get("run", "")
        return address_in_grafana(self.grafana_url, *run, since_ms, str(until_ms))

    def body(self, kind: str) -> bytes:
        """As `kind` ("slack", "discord" or "json") wants it."""
        content = self.content()
        words = [f"{content['title']}", f"run {content['run']} ({content['experiment']})", content["text"]]
        lines = [str(line) for line in words if line]
        if kind == "slack":
            link = f"\n<{content['url']}|Look at it>" if content["url"] else ""
            lines = [line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for line in lines]
            return json.dumps({"text": f":rotating_light: *{lines[0]}*\n" + "\n".join(lines[1:]) + link}).encode()
        if kind == "discord":
            link = f"\n{content['url']}" if content["url"] else ""
            text = "\n".join([f"🚨 **{lines[0]}**", *lines[1:]])
            cut = text if len(text) + len(link) <= DISCORD_CHARS else text[: DISCORD_CHARS - len(link) - 1] + "…"
            return json.dumps({"content": (cut + link)[:DISCORD_CHARS], "allowed_mentions": {"parse": []}}).encode()
        return json.dumps(content, allow_nan=False).encode()
