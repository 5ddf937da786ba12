"""What the menus of a dashboard hold once its page has loaded, worked out as Grafana's front end does.

Checked against Grafana 12.3: `@grafana/scenes` (variables) and the InfluxDB data source's response parser.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tests.grafana_interpolation import Value, interpolate

Ask = Callable[[str], list[list[Any]]]
"""Runs an InfluxQL text and gives the rows of its first statement, over all series."""

_ALL = "$__all"
_DESCENDING = 2


class Menus:
    """The values of a dashboard's variables, in the order in which they depend on each other."""

    def __init__(self, dashboard: Mapping[str, Any], ask: Ask, from_ms: int, to_ms: int, **chosen: Value) -> None:
        """Asks for what each menu offers and takes the first value, or all where All is the default, or `chosen`."""
        self._range = (from_ms, to_ms)
        self._values: dict[str, Value] = {"__from": str(from_ms), "__to": str(to_ms)}
        self._everything: dict[str, str] = {}  # variables where All stands for a pattern of its own
        self._labels: dict[tuple[str, str], str] = {}
        self.options: dict[str, list[str]] = {}
        for variable in dashboard["templating"]["list"]:
            self._load(variable, ask, chosen)

    def chosen(self, name: str) -> list[str]:
        """The values of a variable, one by one; a panel is repeated for each."""
        value = self._values[name]
        return [value] if isinstance(value, str) else list(value)

    def interpolate(self, text: str, **scoped: Value) -> str:
        """A text as it is sent: with these values, or those of a repeated panel."""
        return self._replaced(text, 15_000, scoped)

    def without_macros(self, text: str, **scoped: Value) -> str:
        """The same, but what Grafana's back end replaces is left as it is."""
        marked = re.sub(r"\$(timeFilter|__interval_ms|__interval)\b", r"\\x00\1", text)
        return self._replaced(marked, 0, scoped).replace("\\x00", "$")

    def _replaced(self, text: str, interval_ms: int, scoped: Mapping[str, Value]) -> str:
        for name, pattern in self._everything.items():
            if name not in scoped:
                # Whatever the format: what All stands for is never escaped.
                text = re.sub(rf"\$\{{{name}(:\w+)?\}}", pattern.replace("\\", r"\\"), text)
        text = re.sub(r"\$\{(\w+):text\}", lambda match: self._text(match[1], scoped), text)
        return interpolate(text, {**self._values, **scoped}, *self._range, interval_ms)

    def _text(self, name: str, scoped: Mapping[str, Value]) -> str:
        """What the page writes for a variable's value."""
        value = {**self._values, **scoped}[name]
        shown = [value] if isinstance(value, str) else value
        return " + ".join(self._labels.get((name, one), one) for one in shown)

    def _load(self, variable: Mapping[str, Any], ask: Ask, chosen: Mapping[str, Value]) -> None:
        name = variable["name"]
        self.options[name] = options = self._offered(variable, ask)
        current = variable.get("current", {}).get("value")
        if name in chosen:
            self._values[name] = chosen[name]
        elif variable.get("multi") and current in (_ALL, [_ALL]):
            self._values[name] = options
            if variable.get("allValue"):
                self._everything[name] = variable["allValue"]
        elif variable.get("multi") and set(current or ()) & set(options):
            self._values[name] = [value for value in current if value in options]
        else:
            self._values[name] = current if current in options else next(iter(options), "")

    def _offered(self, variable: Mapping[str, Any], ask: Ask) -> list[str]:
        if variable["type"] == "datasource":
            return [str(variable["current"]["value"])]
        if variable["type"] == "custom":
            pairs = [pair.rpartition(" : ") for pair in self.interpolate(variable["query"]).split(",")]
            self._labels |= {(variable["name"], value): label or value for label, _, value in pairs}
            return [value for _, _, value in pairs]
        if variable["type"] == "query":
            rows = ask(self.interpolate(variable["query"]["query"]))
            # Of a row the second column counts: behind the time, or behind the name of the key.
            found = [str(row[1]) for row in rows if row[1] is not None]
            return _ordered(_picked(found, variable.get("regex", "")), variable["sort"])
        raise ValueError(f"variable {variable['name']}: nothing is known here of the type {variable['type']}")


def _picked(found: Iterable[str], regex: str) -> list[str]:
    """Each value once; of a variable with a regex that part of it which the group `value`, or the first, matches."""
    if not regex:
        return list(dict.fromkeys(found))
    body, flags = re.fullmatch(r"/(.*)/(\w*)", regex, re.S).groups()  # type: ignore[union-attr]
    pattern = re.compile(body.replace("(?<value>", "(?P<value>"), re.I if "i" in flags else 0)
    matches = filter(None, map(pattern.search, found))
    group = "value" if "value" in pattern.groupindex else min(1, pattern.groups)
    return list(dict.fromkeys(match[group] for match in matches))


def _ordered(values: list[str], sort: int) -> list[str]:
    return sorted(values, reverse=sort == _DESCENDING) if sort else values
