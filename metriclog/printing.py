"""How the commands print: names and servers' words as they are, and JSON for programs."""

from __future__ import annotations

import json
import sys

from rich.console import Console

plain = Console(markup=False, emoji=False, highlight=False)  # names and servers' words may hold [brackets] and :colons:


def say(line: str) -> None:
    """One line, however wide the terminal is."""
    plain.print(line, soft_wrap=True)


def print_json(value: object) -> None:
    """Indented JSON on standard output."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
