"""A real browser for tests, and a page that tells on itself: its console, its errors, and where its requests go."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page

from tools.browser import find_chromium

# Some of what is waited for is a round, on a machine that may be busy.
DEADLINE_MS = 120_000


def executable() -> str:
    """The browser; the test is skipped where there is none, but in CI it fails."""
    found = find_chromium()
    if found is None:
        missing = "no Chromium: `make test-sight` installs Debian's, or name one in CHROMIUM"
        (pytest.fail if os.environ.get("PHOTON_TEST_REQUIRE") else pytest.skip)(missing)
    return found


@dataclass
class Watched:
    """A page, and what was wrong with it."""

    page: Page
    origin: str
    console: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, browser: Browser, url: str, **context: Any) -> Watched:
        """Open ``url`` in a browser profile of its own."""
        page = browser.new_context(**context).new_page()
        page.set_default_timeout(DEADLINE_MS)
        parts = urlsplit(url)
        watched = cls(page, f"{parts.scheme}://{parts.netloc}")
        page.on("console", lambda message: watched.console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: watched.console.append(f"error: {error}"))
        page.on("request", lambda request: watched.requested(request.url))
        page.goto(url)
        return watched

    def requested(self, url: str) -> None:
        if not url.startswith((f"{self.origin}/", "data:")):
            self.elsewhere.append(url)

    def close(self) -> None:
        self.page.context.close()

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text().strip()

    def until(self, expression: str, argument: Any = None) -> Any:
        """Wait until a JavaScript function says something true; what it said."""
        return self.page.wait_for_function(expression, arg=argument, timeout=DEADLINE_MS).json_value()

    def points(self, chart: str = "loss") -> int:
        """How many rounds a chart shows."""
        return int(self.page.locator(f"#chart-{chart}").get_attribute("data-points") or 0)
