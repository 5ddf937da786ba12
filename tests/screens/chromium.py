"""Chromium with a dashboard open: when it has been drawn, what it says, and what went wrong on the way."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request, Response

DRAW_DEADLINE_S = 180.0
# Panels wait for variables, and these for each other: a short silence is not yet the end.
SILENCE_S = 2.5
HEIGHT, MAX_HEIGHT = 1_000, 16_000
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_PANELS = "section[data-testid^='data-testid Panel header']"
_CLOSED_ROW = "[aria-label='Expand row']"
_BUSY = "[aria-label='Panel loading bar']"
# Panels, and the rows between them.
_HEIGHT_JS = """() => Math.ceil(Math.max(0, ...[...document.querySelectorAll(".react-grid-item")]
    .map(item => item.getBoundingClientRect().bottom + window.scrollY)))"""
_PANELS_JS = """panels => {
    const isColored = canvas => {
        const {width, height} = canvas;
        const pixels = width && height ? canvas.getContext("2d").getImageData(0, 0, width, height).data : [];
        for (let at = 0; at < pixels.length; at += 4) {
            const [red, green, blue] = [pixels[at], pixels[at + 1], pixels[at + 2]];
            if (Math.max(red, green, blue) - Math.min(red, green, blue) > 60) return true;
        }
        return false; // axes, grid and labels are grey
    };
    return panels.map(panel => ({
        number: parseInt(panel.closest("[data-viz-panel-key]").dataset.vizPanelKey.split("-")[1]),
        title: panel.dataset.testid.replace("data-testid Panel header ", ""),
        text: panel.innerText,
        failed: panel.querySelector("[data-testid='data-testid Panel status error']") !== null,
        names: panel.querySelectorAll("[data-testid^='data-testid VizLegend series']").length,
        colored: [...panel.querySelectorAll("canvas")].some(isColored),
        rows: panel.querySelectorAll("[role='row']").length - 1,
    }));
}"""


def executable() -> Path | None:
    """The Chromium of this machine; none is ever downloaded."""
    if chosen := os.environ.get("METRICLOG_TEST_CHROMIUM"):
        return Path(chosen)
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    return Path(found) if found else None


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser without a window, that goes through no proxy."""
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--no-proxy-server", "--hide-scrollbars"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@dataclass(frozen=True)
class Seen:
    """One panel as it is on the page: its number in the dashboard, the names in its legend, the rows of its table, and
    whether there is anything but grey on its chart."""

    number: int
    title: str
    text: str
    failed: bool
    names: int
    rows: int
    colored: bool

    @property
    def lines(self) -> list[str]:
        """Its text, line by line."""
        return [line.strip() for line in self.text.splitlines() if line.strip()]


@dataclass(frozen=True)
class Sight:
    """A dashboard that has been drawn. `problems`: answers of 400 and more to queries, and errors of the page."""

    panels: list[Seen]
    problems: list[str]


class _Traffic:
    """The queries of a page: how many are under way, when the last one ended."""

    def __init__(self, page: Page) -> None:
        self._errors: list[str] = []
        self._refused: list[Response] = []
        self._open: set[Any] = set()
        self._changed_s = time.monotonic()
        page.on("request", self._began)
        page.on("requestfinished", self._ended)
        page.on("requestfailed", self._ended)
        page.on("response", self._answered)
        page.on("pageerror", lambda error: self._errors.append(f"error of the page: {error}"))

    def unanswered(self) -> list[str]:
        """What the page still waits for."""
        return [_asked(request) for request in self._open]

    def quiet_for_s(self) -> float:
        return 0.0 if self._open else time.monotonic() - self._changed_s

    def _began(self, request: Request) -> None:
        if "/api/ds/query" in request.url:
            self._open.add(request)
            self._changed_s = time.monotonic()

    def _ended(self, request: Request) -> None:
        if request in self._open:
            self._open.discard(request)
            self._changed_s = time.monotonic()

    def problems(self) -> list[str]:
        """Errors of the page, and answers of 400 and more to its queries."""
        said = [f"{one.status} to a query: {one.text()[:600]} for {_asked(one.request)}" for one in self._refused]
        return self._errors + said

    def _answered(self, response: Response) -> None:
        # Its text cannot be read in here: the page stands still until this returns.
        if "/api/ds/query" in response.url and response.status >= 400:
            self._refused.append(response)


def _asked(request: Request) -> str:
    return str(request.post_data or request.url)[:1500]


@dataclass(frozen=True)
class View:
    """A dashboard to look at: where it is, in how wide a window, and whether its collapsed rows are to be opened."""

    url: str
    width: int
    open_rows: bool
    headers: Mapping[str, str]


def look(browser: Browser, view: View, picture: Path) -> Sight:
    """Opens a dashboard, waits until all of it has been drawn, and takes its picture, however long the page is."""
    context = browser.new_context(
        viewport={"width": view.width, "height": HEIGHT},
        extra_http_headers=dict(view.headers),
        locale="en-US",
        timezone_id="UTC",
        reduced_motion="reduce",
    )
    try:
        page = context.new_page()
        traffic = _Traffic(page)
        page.goto(view.url, wait_until="domcontentloaded", timeout=DRAW_DEADLINE_S * 1000)
        _wait_until_drawn(page, traffic)
        _make_room(page, traffic, view.width)
        if view.open_rows:
            _open_rows(page, traffic)
            _make_room(page, traffic, view.width)
        seen = [Seen(**panel) for panel in page.locator(_PANELS).evaluate_all(_PANELS_JS)]
        picture.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=picture)
        return Sight(seen, traffic.problems())
    finally:
        context.close()


def _open_rows(page: Page, traffic: _Traffic) -> None:
    while page.locator(_CLOSED_ROW).count() > 0:
        page.locator(_CLOSED_ROW).first.click()
        page.wait_for_timeout(100)
    page.mouse.move(0, 0)  # away from what shows a hint under it
    _wait_until_drawn(page, traffic)


def _make_room(page: Page, traffic: _Traffic, width: int) -> None:
    """Makes the window as high as the page: panels below its edge are not drawn."""
    room = (page.viewport_size or {"height": HEIGHT})["height"]
    while room < (height := min(int(page.evaluate(_HEIGHT_JS)) + 24, MAX_HEIGHT)):
        room = height
        page.set_viewport_size({"width": width, "height": room})
        _wait_until_drawn(page, traffic)


def _wait_until_drawn(page: Page, traffic: _Traffic) -> None:
    deadline_s = time.monotonic() + DRAW_DEADLINE_S
    still_s = 0.0
    while still_s < SILENCE_S or traffic.quiet_for_s() < SILENCE_S:
        if time.monotonic() > deadline_s:
            says = page.locator("body").inner_text()[:500]
            busy = page.locator(_BUSY).count()
            raise TimeoutError(
                f"{page.url} was not drawn within {DRAW_DEADLINE_S} s: {busy} panels are loading, unanswered are "
                f"{traffic.unanswered()}; the page says: {says}"
            )
        page.wait_for_timeout(100)
        calm = page.locator(_PANELS).count() > 0 and page.locator(_BUSY).count() == 0
        still_s = still_s + 0.1 if calm else 0.0
