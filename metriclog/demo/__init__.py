"""`metriclog demo`: four real models trained, logged, read back, compared and drawn, with a server or without."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from metriclog.errors import MissingPackageError
from metriclog.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

# What the demo imports beyond metriclog's own dependencies, and the names to install.
NEEDED = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "pandas": "pandas", "plotext": "plotext"}


def run_demo(
    *,
    settings: Settings,
    steps: int | None = None,
    output: Path | None = None,
    console: Console | None = None,
    seed: int = 0,
) -> int:
    """Train, log, read back, compare and draw; returns an exit code: 0 if every value logged was read back.

    `steps` is the length of each run (default 3,000; the diverging run needs about 100 to diverge). `output` is the
    picture's path (default `demo-curves.png` in the journal directory). With `settings.url` the runs are shipped too.
    Takes about ten seconds. Raises `MissingPackageError` that names what to install, `UsageError` and `SettingsError`
    for what cannot work.
    """
    check_packages()
    # Late for weight: scikit-learn, pandas and matplotlib together take seconds to import; and the check must be first.
    from metriclog.demo.tour import Tour

    return Tour(settings, steps=steps, output=output, console=console, seed=seed).run()


def check_packages() -> None:
    """Raise `MissingPackageError` if an optional package is missing; the message names all that are."""
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if missing:
        raise MissingPackageError(f'metriclog demo needs {", ".join(missing)}: pip install "metriclog[demo]"')
