"""What Grafana does to a query text before it sends it, so that dashboard queries can run against a real InfluxDB.

Variables are replaced as its front end does (`@grafana/scenes`, formatRegistry), the time range and the interval as its
InfluxDB back end does (`pkg/tsdb/influxdb/models`). Checked against Grafana 12.3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

Value = str | Sequence[str]

_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<format>\w+))?\}")
_MACROS = ("$timeFilter", "$__interval_ms", "$__interval")
_REGEX_SPECIAL = re.compile(r"[\\^$*+?.()|\[\]{}/]")


def interpolate(query: str, variables: Mapping[str, Value], from_ms: int, to_ms: int, interval_ms: int) -> str:
    """The text that InfluxDB gets. `variables` holds the chosen values; several values stand for a multi selection.

    Raises KeyError for a variable without a value and ValueError for a form whose outcome depends on the value: no
    format given, or a bare `$name`.
    """
    text = _VARIABLE.sub(lambda match: _replacement(match, variables), query)
    text = text.replace("$timeFilter", f"time >= {from_ms}ms and time <= {to_ms}ms")
    text = text.replace("$__interval_ms", str(interval_ms))
    return text.replace("$__interval", f"{interval_ms}ms")


def bare_variables(query: str) -> set[str]:
    """Variables that stand in `query` as `$name`, without braces; Grafana's own macros do not count."""
    for macro in _MACROS:
        query = query.replace(macro, "")
    return set(re.findall(r"\$(\w+)", query))


def variable_formats(text: str) -> set[tuple[str, str]]:
    """Each `${name:format}` of a text as (name, format); "" where no format is given."""
    return {(match["name"], match["format"] or "") for match in _VARIABLE.finditer(text)}


def _replacement(match: re.Match[str], variables: Mapping[str, Value]) -> str:
    name, chosen_format = match["name"], match["format"]
    if chosen_format not in _FORMATS:
        raise ValueError(f"{match[0]}: give {name} one of the formats {', '.join(_FORMATS)}")
    value = variables[name]
    return _FORMATS[chosen_format]([value] if isinstance(value, str) else list(value))


def _regex(values: list[str]) -> str:
    escaped = [_REGEX_SPECIAL.sub(r"\\\g<0>", value) for value in values]
    return escaped[0] if len(escaped) == 1 else "(" + "|".join(escaped) + ")"


def _single_quoted(values: list[str]) -> str:
    return ",".join("'" + value.replace("'", "\\'") + "'" for value in values)


_FORMATS: Mapping[str, Callable[[list[str]], str]] = {
    "regex": _regex,
    "raw": ",".join,
    "singlequote": _single_quoted,
}
