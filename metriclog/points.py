"""What a point is: names, tag sets, numbers, the rule for non-finite values, and line protocol. Pure.

Sources for the escapes and limits: the line protocol reference of InfluxDB 2 and measurements on 2.9.1.
"""

from __future__ import annotations

import math
import operator
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metriclog.errors import MetricNameError, MetricValueError, StepError, UsageError

Tags = tuple[tuple[str, str], ...]
Field = float | int | str

RUN_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
MAX_NAME_CHARS = 512  # InfluxDB refuses keys beyond 65,535 bytes; menus and legends end far earlier
MAX_TAGS_BYTES = 32_768  # of all user tags: half of such a key, the other half for metriclog's own tags
RESERVED_TAGS = frozenset(
    {"experiment", "run", "metric", "model", "dataset", "rank", "time", "value", "step", "elapsed", "nonfinite"}
    # Fields of measurements that carry the same tags: InfluxDB 3 wants no tag and field of one name.
    | {"last", "min", "max", "mean", "last_step", "min_step", "max_step", "count", "host"}
)
NAN, POSITIVE_INFINITY, NEGATIVE_INFINITY = 1, 2, 3
MAX_TIME_NS = 2**63 - 2**20

_BAD_CHARS = re.compile(r"[\x00-\x1f\x7f\u0085\u2028\u2029\ud800-\udfff]")
# A backslash is literal to InfluxDB except before a character that it escapes, where the two cannot be told apart.
_BAD_BACKSLASH = re.compile(r"\\(?=[,= \\\"]|$)")
_ESCAPE_TAG = str.maketrans({",": "\\,", "=": "\\=", " ": "\\ "})
_ESCAPE_TEXT = str.maketrans({"\\": "\\\\", '"': '\\"'})

# What numpy's, torch's and jax's dtypes are called that hold no real number, though float() may read them.
_OTHER_DTYPES = re.compile(r"(torch\.)?(complex|datetime|timedelta|object|[<>|=]?[USVaO]\d*$|void)")

# Types `struct` packs as a double without a question; numpy's scalar types join when they are first seen.
PLAIN_NUMBERS: set[type] = {float, int, bool}


def check_name(name: object, what: str = "metric name") -> str:
    """Return `name` if it can be stored as a tag value or key, else raise `MetricNameError` saying why."""
    if not isinstance(name, str):
        raise MetricNameError(f"a {what} must be a string, not {type(name).__name__}: {name!r}")
    if not name or len(name) > MAX_NAME_CHARS:
        raise MetricNameError(f"a {what} needs 1 to {MAX_NAME_CHARS} characters, this one has {len(name)}")
    if _BAD_CHARS.search(name):
        raise MetricNameError(f"{what} {name!r}: line breaks and control characters cannot be stored; remove them")
    if _BAD_BACKSLASH.search(name):
        raise MetricNameError(f"{what} {name!r}: a backslash before a comma, space, '=', '\"' or the end; use '/'")
    return name


def check_tags(tags: Mapping[str, object] | None) -> dict[str, str]:
    """User tags as strings. Raises `MetricNameError` for a name metriclog or InfluxDB keeps for itself."""
    checked: dict[str, str] = {}
    for key, value in (tags or {}).items():
        check_name(key, "tag name")
        if key in RESERVED_TAGS or key.startswith("_"):
            raise MetricNameError(f"tag name {key!r} is reserved; choose another")
        checked[key] = check_name(str(value), f"value of tag {key!r}")
    size_bytes = len(series_key("", checked.items()).encode())
    if size_bytes > MAX_TAGS_BYTES:
        raise MetricNameError(
            f"these tags take {size_bytes:,} bytes, more than {MAX_TAGS_BYTES:,}; log_params() has room"
        )
    return checked


def dataset_tag(dataset: str | tuple[str, str] | None) -> str | None:
    """`"digits"` stays, `("digits", "1f3a")` becomes `"digits@1f3a"`."""
    if dataset is None or isinstance(dataset, str):
        return dataset if dataset is None else check_name(dataset, "dataset")
    if not (isinstance(dataset, tuple) and len(dataset) == 2 and all(isinstance(part, str) for part in dataset)):
        raise MetricNameError(f"a dataset is a name or a (name, digest) pair of strings, not {dataset!r}")
    return check_name("@".join(dataset), "dataset")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, names joined with `/`. `MetricNameError` if two fall together or one is no text."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if not isinstance(key, str):
            raise MetricNameError(f"a name must be a string, not {type(key).__name__}: {key!r}")
        name = f"{prefix}{key}"
        items = flatten(value, f"{name}/") if isinstance(value, Mapping) else {name: value}
        for inner, item in items.items():
            if inner in flat:
                raise MetricNameError(f"the name {inner!r} occurs twice after nested names are joined with '/'")
            flat[inner] = item
    return flat


def as_number(value: object, name: str) -> float:
    """One real number as a float: int, float, bool, Decimal, numpy scalar, 0-d array or tensor.

    Raises `MetricValueError` for anything else: text, None, complex, a vector.
    """
    check_number(value, name)
    detach = getattr(value, "detach", None)  # a torch tensor inside a graph warns when it is read
    try:
        number = float(detach() if detach is not None else value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise MetricValueError(f"metric {name!r}: {type(value).__name__} is not one real number: {error}") from error
    _learn_numpy_scalar(type(value))
    return number


def check_number(value: object, name: str) -> None:
    """Raise `MetricValueError` for what is plainly no real number, without reading it: a tensor may be on a device."""
    problem = _not_a_number(value)
    if problem:
        raise MetricValueError(f"metric {name!r}: {problem}")


def _not_a_number(value: object) -> str | None:
    kind = type(value).__name__
    if value is None or isinstance(value, (str, bytes, bytearray, complex)):
        return f"a value must be one real number, not {kind} ({value!r}); text goes to run.event() or log_params()"
    shape = getattr(value, "shape", ())
    if isinstance(shape, Sequence) and len(shape) > 0:
        return f"a value must be one number, not a {kind} of shape {tuple(shape)}; log its .mean(), .max() or .norm()"
    dtype = getattr(value, "dtype", None)
    if _OTHER_DTYPES.match(str(dtype)):
        return f"a value must be one real number, not {dtype}"
    if not hasattr(value, "__float__") and not hasattr(value, "__index__"):  # float() would read any bytes as text
        return f"a value must be one real number, not {kind}"
    return None


def _learn_numpy_scalar(kind: type) -> None:
    numpy = sys.modules.get("numpy")
    # Another thread may be importing it right now, so that it has no types yet.
    families = [getattr(numpy, name) for name in ("floating", "integer", "bool_") if hasattr(numpy, name)]
    if issubclass(kind, tuple(families)):
        PLAIN_NUMBERS.add(kind)


def as_step(step: object) -> int:
    """A step as an int64. Raises `StepError` for floats, bools, text and numbers beyond 63 bits."""
    try:
        if isinstance(step, bool):
            raise TypeError("a bool is not a step")
        number = operator.index(step)  # type: ignore[arg-type]
    except TypeError as error:
        raise StepError(f"step must be an integer, not {step!r}; use int(step)") from error
    if not -(2**63) <= number < 2**63:
        raise StepError(f"step must be an integer of at most 63 bits; this one has {number.bit_length()}")
    return number


def as_time_ns(timestamp: object) -> int:
    """Seconds since 1970 (as `time.time()`) or an aware `datetime`, as ns. Raises `StepError` out of range."""
    import datetime as dt

    if isinstance(timestamp, dt.datetime):
        if timestamp.tzinfo is None:
            raise StepError(f"timestamp {timestamp!r} has no time zone; use datetime.now(timezone.utc)")
        delta = timestamp - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
        time_ns = (delta.days * 86_400 + delta.seconds) * 10**9 + delta.microseconds * 1000
    else:
        if isinstance(timestamp, bool) or not isinstance(timestamp, (int, float)) or timestamp != timestamp:
            raise StepError(f"timestamp must be seconds since 1970 or a datetime, not {timestamp!r}")
        seconds = min(max(timestamp, -1), MAX_TIME_NS)  # so that infinities and huge ints get past round()
        time_ns = round(seconds * 1_000_000) * 1000
    if not 0 <= time_ns < MAX_TIME_NS:
        raise StepError(f"timestamp {timestamp!r} is out of range: seconds since 1970 are wanted, not ms or ns")
    return time_ns


def as_level(level: object) -> str:
    """ "info", "warning" or "critical", also in capitals and by W&B's names. Raises `UsageError` for others."""
    name = str(getattr(level, "value", level)).lower()
    name = {"warn": "warning", "error": "critical"}.get(name, name)
    if name not in ("info", "warning", "critical"):
        raise UsageError(f'level must be "info", "warning" or "critical", not {level!r}')
    return name


class Stamps:
    """Explicit time stamps given so far: a second point of a series at the same instant would overwrite the first."""

    def __init__(self, limit: int = 65_536) -> None:
        self._limit = limit  # remembered; about 16 MB
        self._next_ns: dict[tuple[Tags, str, int], int] = {}

    def apart(self, metrics: Iterable[str], tags: Tags, time_ns: int) -> int:
        """The first instant from `time_ns` on, in steps of 1 ns, that none of these series has a point at."""
        free_ns, names = time_ns, tuple(metrics)
        while taken := [after for name in names if (after := self._next_ns.get((tags, name, free_ns)))]:
            free_ns = max(taken)
        for name in names:
            self._next_ns.pop((tags, name, time_ns), None)  # what is in use moves to the end, the last to be forgotten
            self._next_ns[tags, name, free_ns] = self._next_ns[tags, name, time_ns] = free_ns + 1
        if len(self._next_ns) > self._limit:
            for key in list(self._next_ns)[: self._limit // 2]:
                del self._next_ns[key]
        return free_ns


def nonfinite_code(value: float) -> int:
    """0 for a finite number, else how `nonfinite` stores it: 1 NaN, 2 +Inf, 3 -Inf."""
    if math.isfinite(value):
        return 0
    return NAN if math.isnan(value) else POSITIVE_INFINITY if value > 0 else NEGATIVE_INFINITY


def from_nonfinite_code(code: int) -> float:
    """The float behind a `nonfinite` field."""
    return {POSITIVE_INFINITY: math.inf, NEGATIVE_INFINITY: -math.inf}.get(code, math.nan)


def as_field(value: object) -> tuple[str, Field]:
    """A parameter as (`number`, float) if finite, else (`text`, str): never both, so that tables can sort."""
    is_bool = isinstance(value, bool) or ("bool" in str(getattr(value, "dtype", "")) and not getattr(value, "shape", 1))
    if is_bool:
        return "text", "true" if value else "false"
    try:
        number = as_number(value, "parameter")
    except MetricValueError:
        return "text", str(value)
    return ("number", number) if math.isfinite(number) else ("text", str(number))


def escape_tag(text: str) -> str:
    """A tag key, tag value or field key, checked before, as line protocol wants it."""
    return text.translate(_ESCAPE_TAG)


def escape_text(text: str) -> str:
    """A string field's inside. Line breaks become the two characters `\\n`: a raw one splits the line elsewhere."""
    visible = _BAD_CHARS.sub(lambda match: match.group().encode("unicode_escape", "surrogatepass").decode(), text)
    return visible.translate(_ESCAPE_TEXT)


def series_key(measurement: str, tags: Iterable[tuple[str, str]]) -> str:
    """`measurement,tag=value,…`, tags sorted by key as InfluxDB likes them best."""
    return ",".join([measurement, *(f"{escape_tag(key)}={escape_tag(value)}" for key, value in sorted(tags))])


def encode_line(measurement: str, tags: Iterable[tuple[str, str]], fields: Mapping[str, Field], time_ns: int) -> str:
    """One line, without the line break. Ints become integer fields, floats float fields; floats must be finite."""
    parts = []
    for key, value in fields.items():
        if isinstance(value, str):
            text = f'"{escape_text(value)}"'
        elif isinstance(value, int):
            text = f"{int(value)}i"
        else:
            text = repr(float(value))
        parts.append(f"{escape_tag(key)}={text}")
    return f"{series_key(measurement, tags)} {','.join(parts)} {time_ns}"


def param_line(experiment: str, run: str, name: str, value: object, time_ns: int) -> str:
    """One parameter as a point of `params`."""
    key, field = as_field(value)
    tags = (("experiment", experiment), ("run", run), ("param", check_name(name, "parameter name")))
    return encode_line("params", tags, {key: field}, time_ns)


def event_line(tags: Mapping[str, str], fields: Mapping[str, Field], time_ns: int) -> str:
    """One point of `events`. `step` and `elapsed` must be there: an event without them blanks a step chart."""
    return encode_line("events", tags.items(), fields, time_ns)


@dataclass(frozen=True, slots=True)
class Point:
    """One parsed line."""

    measurement: str
    tags: dict[str, str]
    fields: dict[str, Field]
    time_ns: int


_SPLIT = {char: re.compile(rf"(?<!\\){re.escape(char)}") for char in ", ="}
_FIELD = re.compile(r'((?:\\.|[^=\\])+)=("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')
_UNESCAPE_TAG = re.compile(r"\\([,= ])")
_UNESCAPE_TEXT = re.compile(r'\\(["\\])')


def parse_line(line: str) -> Point:
    """Read back one line that `encode_line` or the metrics encoder wrote. Raises ValueError if it is not one."""
    key, rest = _SPLIT[" "].split(line, 1)
    fields_text, time_text = rest.rsplit(" ", 1)
    measurement, *tag_parts = _SPLIT[","].split(key)
    tags = {}
    for part in tag_parts:
        name, value = _SPLIT["="].split(part, 1)
        tags[_UNESCAPE_TAG.sub(r"\1", name)] = _UNESCAPE_TAG.sub(r"\1", value)
    fields = {_UNESCAPE_TAG.sub(r"\1", m[1]): _parse_field(m[2]) for m in _FIELD.finditer(fields_text)}
    return Point(measurement, tags, fields, int(time_text))


def _parse_field(text: str) -> Field:
    if text.startswith('"'):
        return _UNESCAPE_TEXT.sub(r"\1", text[1:-1])
    return int(text[:-1]) if text.endswith("i") else float(text)


def metric_prefixes(tags: Tags, metrics: Sequence[str]) -> tuple[list[bytes], list[bytes]]:
    """For each metric the start of its line up to the value: (finite `value=`, non-finite `nonfinite=`)."""
    keys = [series_key("metrics", (*tags, ("metric", metric))) for metric in metrics]
    return [f"{key} value=".encode() for key in keys], [f"{key} nonfinite=".encode() for key in keys]


def encode_rows(
    prefixes: tuple[list[bytes], list[bytes]], started_ns: int, rows: Sequence[tuple[Any, ...]], dumps: Any
) -> list[bytes]:
    """Lines of `metrics`, one a value, for rows `(time_ns, step, value, …)` of one shape; each ends in a line break.

    `dumps` turns a list of floats into JSON bytes (orjson: several times faster than `repr`, the same digits).
    """
    finite, nonfinite = prefixes
    tails = [b",step=%di,elapsed=%di %d\n" % (row[1], (row[0] - started_ns) // 1_000_000, row[0]) for row in rows]
    values = [row[2] for row in rows] if len(finite) == 1 else [value for row in rows for value in row[2:]]
    tokens = dumps(values)[1:-1].split(b",")
    starts = finite * len(rows)
    if b"null" in tokens:  # JSON has no NaN: those places get the other field
        for index, token in enumerate(tokens):
            if token == b"null":
                starts[index] = nonfinite[index % len(finite)]
                tokens[index] = b"%di" % nonfinite_code(values[index])
    if len(finite) == 1:
        return [b"%b%b%b" % line for line in zip(starts, tokens, tails, strict=True)]
    width = len(finite)
    repeated = [tail for tail in tails for _ in range(width)]
    return [b"%b%b%b" % line for line in zip(starts, tokens, repeated, strict=True)]
