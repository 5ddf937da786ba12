"""Hypothesis strategies for what metriclog accepts: names, tags, texts, numbers, steps and times. Biased to trouble."""

from __future__ import annotations

import math
import re
import struct

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from metriclog.points import MAX_TIME_NS, RESERVED_TAGS

INT64 = st.integers(-(2**63), 2**63 - 1)
TIMES_NS = st.integers(0, MAX_TIME_NS - 1)
FLOATS = st.floats() | st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308])
FINITE = FLOATS.filter(lambda number: abs(number) <= 1.7976931348623157e308)

_TROUBLE = "\\\\,,==  \"\"''##//@;:|$%&{}[]()<>-+.0123456789eiainfNaNé損🙂\u200b\ufeff\ufffd"
_UNHOLDABLE = "".join(map(chr, range(32))) + "\x7f\x85\u2028\u2029"
_ANY = st.characters(codec="utf-8", exclude_characters=_UNHOLDABLE)


def names(max_size: int = 30) -> SearchStrategy[str]:
    """Names that can be stored, of 1 to `max_size` characters: a backslash only where it escapes nothing."""
    troubled = st.text(st.sampled_from(_TROUBLE), min_size=1, max_size=max_size)
    any_text = troubled | st.text(_ANY, min_size=1, max_size=max_size)
    return any_text.map(lambda text: re.sub(r'\\(?=[\\,= "]|\Z)', "/", text))


def texts(max_size: int = 60) -> SearchStrategy[str]:
    """Any text, line breaks, control characters and lone surrogates included."""
    troubled = st.text(st.sampled_from(_TROUBLE + '\n\r\t\0"\\'), max_size=max_size)
    return troubled | st.text(st.characters(), max_size=max_size)


def tags(max_size: int = 4) -> SearchStrategy[dict[str, str]]:
    """Tags of a user."""
    keys = names().filter(lambda name: name not in RESERVED_TAGS and not name.startswith("_"))
    return st.dictionaries(keys, names(), max_size=max_size)


def bits(number: float) -> bytes:
    """What tells -0.0 from 0.0 and one NaN from another number."""
    return b"nan" if math.isnan(number) else struct.pack("<d", number)
