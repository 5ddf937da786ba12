"""`python -m metriclog.grafana [--check] [DIR]`: write the dashboard files, or say whether they are up to date."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from metriclog.grafana.dashboards import all_dashboards


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the files below DIR, one line each; 1 if `--check` found a difference, else 0."""
    parser = argparse.ArgumentParser(prog="python -m metriclog.grafana", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file differs")
    parser.add_argument(
        "dir", nargs="?", type=Path, default=Path("dashboards"), metavar="DIR", help="default: %(default)s"
    )
    options = parser.parse_args(arguments)
    lines = check(options.dir) if options.check else write(options.dir)
    sys.stdout.write("".join(line + "\n" for line in lines))
    return 1 if options.check and lines else 0


def write(directory: Path) -> list[str]:
    """Write every dashboard below `directory`; what was done, a line per file. Raises OSError."""
    lines = []
    for name, dashboard in all_dashboards().items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dashboard.to_json(), encoding="utf-8")
        lines.append(f"wrote {path}")
    return lines


def check(directory: Path) -> list[str]:
    """What is wrong with the files below `directory`, a line per file; empty if nothing is."""
    expected = {directory / name: dashboard.to_json() for name, dashboard in all_dashboards().items()}
    problems = []
    for path, text in expected.items():
        if not path.is_file():
            problems.append(f"{path} is missing: run python -m metriclog.grafana")
        elif path.read_text(encoding="utf-8") != text:
            problems.append(f"{path} is not what the code makes: run python -m metriclog.grafana")
    # Grafana would go on showing a file whose dashboard is gone from the code.
    strays = sorted(set(directory.rglob("*.json")) - expected.keys())
    return problems + [f"{path} is made by no code: delete it" for path in strays]


if __name__ == "__main__":
    sys.exit(main())
