"""The page of a made-up job behind the real application: markup, token, size, speed, phone, keyboard, dark and calm."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from photon.api.status import JobReason
from photon.protocol.messages import RefusalReason
from photon_aggregator.engine import Engine
from photon_aggregator.http.server import listen
from photon_aggregator.rounds.events import Broken, Submitted, UpdateRefused
from tests.sight.browser import Watched, executable
from tools.browser import chromium
from tools.histories.page import MadeUp, made_up_engine, serve_made_up

pytestmark = [pytest.mark.sight, pytest.mark.timeout(600)]

PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "device_scale_factor": 2}
MARKUP = '<img src=x onerror="window.broken = 1"><script>window.broken = 1</script>&amp;'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium(executable()) as running:
        yield running


class Served:
    """A made-up job served from a thread. ``do`` runs something on its event loop."""

    def __init__(self, participants: int, rounds: int, read_token: str | None = None) -> None:
        self.engine, self.history = made_up_engine(participants, rounds)
        self._bound = listen("127.0.0.1:0")
        self.url = f"http://127.0.0.1:{self._bound.getsockname()[1]}/"
        self._read_token = read_token
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))

    async def _main(self) -> None:
        self._loop, stop = asyncio.get_running_loop(), asyncio.Event()
        self._stop = stop
        server = asyncio.create_task(
            serve_made_up(
                self.engine, self.history, self._bound, every_seconds=3600, read_token=self._read_token, stop=stop
            )
        )
        self._ready.set()
        await server

    def __enter__(self) -> Served:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        self._bound.close()
        assert not self._thread.is_alive()

    def do(self, work: Callable[[Engine, MadeUp], None]) -> None:
        done = threading.Event()

        def run() -> None:
            try:
                work(self.engine, self.history)
            finally:
                done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(10)


@contextmanager
def opened(browser: Browser, url: str, **context: Any) -> Iterator[Watched]:
    """A page with its first curve; nothing on its console, and no request elsewhere, may be left at the end."""
    page = Watched.open(browser, url, **context)
    try:
        page.page.wait_for_selector("#chart-loss:not([data-points='0']) canvas")
        yield page
        assert page.console == []
        assert page.elsewhere == []
    finally:
        page.close()


def refuse(engine: Engine, history: MadeUp) -> None:
    """An update is checked and refused with a message that holds markup, as one that quotes a record might."""
    open_round = engine.state.open
    assert open_round is not None
    manifest: Any = None  # nothing looks at it before the check, which is ours
    at, name = engine.clock(), history.names[0]
    engine.send(Submitted(at=at, round=open_round.round, participant=name, manifest=manifest, digest="d"))
    engine.send(
        UpdateRefused(
            at=at,
            round=open_round.round,
            participant=name,
            digest="d",
            reason=RefusalReason.WRONG_SHAPE,
            message=MARKUP,
        )
    )


def test_markup_in_messages_is_shown_as_text(browser: Browser) -> None:
    with Served(3, 12) as served, opened(browser, served.url) as watched:
        served.do(refuse)
        watched.page.wait_for_selector("[data-participant=site-00] .why:visible")
        assert MARKUP in watched.text("[data-participant=site-00] .why")
        watched.page.wait_for_selector("#events-list [data-kind=UpdateRefused]")
        assert MARKUP in watched.text("#events-list [data-kind=UpdateRefused]")
        served.do(lambda engine, _: engine.send(Broken(at=1.0, reason=JobReason.STORAGE_FAILED, message=MARKUP)))
        watched.page.wait_for_selector("#outcome:visible")
        assert watched.text("#outcome") == f"storage failed: {MARKUP}"
        assert watched.text("#state") == "Failed"
        assert watched.page.locator("img, main script").count() == 0
        assert watched.page.evaluate("() => window.broken === undefined")


def test_the_browser_itself_refuses_what_the_policy_forbids(browser: Browser) -> None:
    """If markup ever got in, it could not run: the policy is in force, not only sent."""
    with Served(2, 3) as served:
        watched = Watched.open(browser, served.url)
        watched.page.evaluate(
            """() => { const s = document.createElement("script"); s.textContent = "window.broken = 1";
                       document.body.append(s); const i = new Image(); i.src = "http://elsewhere.invalid/x.png";
                       document.body.append(i); }"""
        )
        watched.page.wait_for_timeout(300)
        assert watched.page.evaluate("() => window.broken === undefined")
        assert sum("Content Security Policy" in line for line in watched.console) >= 2
        watched.close()


def test_a_read_token_is_asked_for_once_and_can_come_with_the_address(browser: Browser) -> None:
    with Served(2, 5, read_token="secret") as served:
        watched = Watched.open(browser, served.url)
        page = watched.page
        page.wait_for_selector("#token:visible")
        assert page.evaluate("() => document.activeElement.id") == "token-value"
        assert page.locator("#lanes").is_hidden()
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#token-error:has-text('not the job')")
        page.keyboard.type("secret")
        page.keyboard.press("Enter")
        page.wait_for_selector("#chart-loss:not([data-points='0']) canvas")
        assert page.locator("#token").is_hidden()
        page.reload()
        page.wait_for_selector("#chart-loss:not([data-points='0']) canvas")
        assert page.locator("#token").is_hidden(), "kept for the tab"
        watched.close()
        with opened(browser, f"{served.url}#token=secret") as linked:
            assert linked.page.url == served.url, "it does not stay in the address"
            assert linked.page.evaluate("() => document.cookie + localStorage.length") == "0"


def test_it_fits_a_phone(browser: Browser) -> None:
    with Served(6, 40) as served, opened(browser, served.url, **PHONE) as watched:
        page = watched.page
        assert page.evaluate("() => document.documentElement.scrollWidth") <= PHONE["viewport"]["width"]
        page.locator("#more summary").tap()
        page.locator("#chart-time").scroll_into_view_if_needed()
        page.locator("#chart-time canvas").wait_for()
        page.locator("#chain-list summary").first.tap()
        page.locator("#chain-list table").first.wait_for()
        assert page.evaluate("() => document.documentElement.scrollWidth") <= PHONE["viewport"]["width"]
        buttons = page.locator("#choices button, #chain-list summary")
        assert min(box["height"] for item in buttons.all() if (box := item.bounding_box())) >= 24


def test_everything_can_be_done_by_keyboard_with_the_focus_in_sight(browser: Browser) -> None:
    with Served(3, 40) as served, opened(browser, served.url) as watched:
        page = watched.page
        page.locator("[data-participant=site-02]").wait_for()
        seen: list[str] = []
        for _ in range(60):
            page.keyboard.press("Tab")
            what = page.evaluate(
                """() => { const e = document.activeElement, s = getComputedStyle(e);
                           if (e === document.body) return null;
                           const inSight = s.outlineStyle !== "none" || e.className === "skip";
                           return [e.textContent.trim().slice(0, 24) || e.id || e.ariaLabel, inSight]; }"""
            )
            if what is None:
                break
            assert what[1], f"no outline around {what[0]}"
            seen.append(what[0])
        text = " | ".join(seen)
        for name in ("Skip to the participants", "All", "Tokens", "site-00", "site-02", "Older commits", "events-all"):
            assert name in text, text
        assert text.index("Skip") < text.index("Tokens") < text.index("site-00") < text.index("Older commits")
        # A chart is read round by round.
        page.locator("#chart-loss .canvas").focus()
        page.keyboard.press("End")
        page.keyboard.press("ArrowLeft")
        page.wait_for_selector("#chart-loss .where:has-text('round')")
        assert watched.text("#chart-perplexity .where") == watched.text("#chart-loss .where"), "all charts together"
        # A participant's curve goes and comes back.
        button = page.locator("[data-participant=site-00] button")
        button.focus()
        page.keyboard.press("Enter")
        page.locator("#chart-loss").scroll_into_view_if_needed()  # what is out of sight is not drawn
        page.wait_for_selector("#chart-loss .keys:not(:has-text('site-00'))")
        assert button.get_attribute("aria-pressed") == "false"
        page.keyboard.press("Enter")
        page.locator("#chart-loss").scroll_into_view_if_needed()
        page.wait_for_selector("#chart-loss .keys:has-text('site-00')")


def test_dark_and_calm_where_the_system_asks_for_it(browser: Browser) -> None:
    background = "() => getComputedStyle(document.body).backgroundColor"
    with Served(2, 10) as served:
        with opened(browser, served.url, color_scheme="light") as watched:
            light = watched.page.evaluate(background)
            moving = watched.page.evaluate(
                "() => getComputedStyle(document.querySelector('#progress')).transitionDuration"
            )
            watched.page.emulate_media(color_scheme="dark", reduced_motion="reduce")
            dark = watched.page.evaluate(background)
            calm = watched.page.evaluate(
                "() => getComputedStyle(document.querySelector('#progress')).transitionDuration"
            )
        assert sum(map(int, light[4:-1].split(", "))) > 600 > 120 > sum(map(int, dark[4:-1].split(", ")))
        assert (moving, calm) == ("0.6s", "0s")


def test_the_range_of_rounds_and_the_axis_are_chosen(browser: Browser) -> None:
    with Served(2, 300) as served, opened(browser, served.url) as watched:
        watched.until("() => document.querySelector('#chart-loss').dataset.points === '300'")
        watched.page.get_by_role("button", name="Last 50").click()
        watched.until("() => document.querySelector('#chart-loss').dataset.points === '50'")
        watched.page.get_by_role("button", name="Tokens").click()
        watched.page.locator("#chart-loss .canvas").hover()
        watched.page.wait_for_selector("#chart-loss .where:has-text('tokens')")
        watched.page.get_by_role("button", name="Time", exact=True).click()
        watched.page.locator("#chart-loss .canvas").hover(position={"x": 200, "y": 50})
        watched.until("() => /^[0-9:dh ]+$/.test(document.querySelector('#chart-loss .where').textContent)")


def test_64_participants_and_1000_rounds_stay_small_and_smooth(tmp_path: Path) -> None:
    executable()
    result = tmp_path / "page.json"
    command = [sys.executable, "-m", "benchmarks.page", "--seconds", "8", "--output", str(result)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text())
    assert found["bytes"] < 300_000, found
    assert found["rounds_seen"][1] > found["rounds_seen"][0] >= 1000, found
    # How fast it is depends on the machine; benchmarks.page measures it. What this says is that it does not hang.
    assert found["first_curve_seconds"] < 20, found
    assert found["frame_ms_p50"] < 100, found
