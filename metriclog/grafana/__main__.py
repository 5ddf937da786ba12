"""`python -m metriclog.grafana [--check] [DIR]`: write the files for Grafana, or say whether they are up to date.

Without DIR those of this repository: the dashboards below `dashboards/`, and the alert rules.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from metriclog.grafana import alerts
from metriclog.grafana.dashboards import all_dashboards

DASHBOARDS, ALERTS = Path("dashboards"), Path(alerts.FILE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the files, one line each; 1 if `--check` found a difference, else 0."""
    parser = argparse.ArgumentParser(prog="python -m metriclog.grafana", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file differs")
    parser.add_argument("dir", nargs="?", type=Path, metavar="DIR", help="the dashboards alone, below DIR")
    options = parser.parse_args(arguments)
    lines = (check if options.check else write)(options.dir or DASHBOARDS)
    if options.dir is None:
        lines += (check_alerts if options.check else write_alerts)(ALERTS)
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


def write_alerts(path: Path) -> list[str]:
    """Write the alert rules; what was done. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(alerts.alerts_file(), encoding="utf-8")
    return [f"wrote {path}"]


def check_alerts(path: Path) -> list[str]:
    """What is wrong with the file of the alert rules; empty if nothing is."""
    return _problem(path, alerts.alerts_file())


def check(directory: Path) -> list[str]:
    """What is wrong with the files below `directory`, a line per file; empty if nothing is."""
    expected = {directory / name: dashboard.to_json() for name, dashboard in all_dashboards().items()}
    problems = [problem for path, text in expected.items() for problem in _problem(path, text)]
    # Grafana would go on showing a file whose dashboard is gone from the code.
    strays = sorted(set(directory.rglob("*.json")) - expected.keys())
    return problems + [f"{path} is made by no code: delete it" for path in strays]


def _problem(path: Path, text: str) -> list[str]:
    if not path.is_file():
        return [f"{path} is missing: run python -m metriclog.grafana"]
    if path.read_text(encoding="utf-8") != text:
        return [f"{path} is not what the code makes: run python -m metriclog.grafana"]
    return []


if __name__ == "__main__":
    sys.exit(main())
