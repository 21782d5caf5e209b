"""The page of a real run in a real browser: what it shows is what is, and it stays so whatever happens."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from photon.api.status import JobStatus
from photon.terminal import units
from tests.end_to_end.whole_runs import Run, prepare_data, write_job
from tests.sight.browser import Watched, executable
from tests.sight.running import REMOTE, LiveRun, children
from tools.browser import chromium

pytestmark = [pytest.mark.sight, pytest.mark.timeout(600)]

STEPS = 400
SAID_WHY = r"no word since 20.*Z; it was (in (train|evaluate)-\d+, phase|waiting)"

FIGURES = (
    "() => Object.fromEntries([...document.querySelectorAll('#figures dd[id]')].map((e) => [e.id, e.textContent]))"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium(executable()) as running:
        yield running


@pytest.fixture(scope="module")
def paced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRun]:
    """A run whose rounds take some seconds, so that a page that looks each second sees what happens within them."""
    folder = tmp_path_factory.mktemp("paced")
    data = prepare_data(folder / "data")
    here = [{"name": name, "worker": {"data": {"uri": str(path)}}} for name, path in data.items()]
    job = write_job(
        folder / "tiny.yaml",
        data,
        rounds=1000,
        local={
            "steps": STEPS,
            "batchSize": 4,
            "sequenceLength": 64,
            "precision": "fp32",
            "learningRate": {"max": 3e-3, "warmupSteps": 10},
        },
        evaluation={"everyRounds": 1, "batchSize": 16},
        participation={"quorum": 2, "graceSeconds": 1, "roundDeadlineSeconds": 600},
        participants=[*here, {"name": REMOTE, "remote": {}}],
    )
    run = Run(job, folder / "runs")
    try:
        run.wait_until(lambda status: status["evaluatedRound"] is not None)
        yield LiveRun(run)
    finally:
        run.stop()


@pytest.fixture
def watched(browser: Browser, paced: LiveRun) -> Iterator[Watched]:
    """The page of the run, with a first curve; a message on its console or a request elsewhere is a failure."""
    page = Watched.open(browser, f"{paced.url}/")
    page.page.wait_for_selector("#chart-loss:not([data-points='0']) canvas")
    yield page
    page.close()
    assert page.elsewhere == []


def quiet(watched: Watched) -> list[str]:
    """What the console says but for answers that did not come while the aggregator was away."""
    return [line for line in watched.console if "Failed to load resource" not in line]


def shown(status: JobStatus) -> dict[str, str]:
    """The figures as the terminal writes them."""
    assert status.train_loss is not None
    assert status.validation_loss is not None
    return {
        "figure-perplexity": units.perplexity(status.validation_perplexity),
        "figure-validation-loss": units.loss(status.validation_loss),
        "figure-train-loss": units.loss(status.train_loss),
        "figure-tokens": units.amount(status.tokens),
        "figure-present": f"{status.participants_present} of {len(status.participants)}",
        "figure-bytes-up": units.data_size(status.bytes_up),
        "figure-bytes-down": units.data_size(status.bytes_down),
    }


def test_its_figures_are_those_of_the_status(paced: LiveRun, watched: Watched) -> None:
    """Rounds go by meanwhile, so a reading counts when the status was the same before and after it."""
    for _ in range(90):
        before = JobStatus.model_validate(paced.get("/v1/status").json())
        time.sleep(1.2)  # the page looks each second
        figures = watched.page.evaluate(FIGURES)
        head = watched.text("#round")
        after = JobStatus.model_validate(paced.get("/v1/status").json())
        if shown(before) == shown(after) and before.round == after.round:
            break
    else:
        pytest.fail("the status never stood still for as long as the page takes to look")
    assert {name: figures[name] for name in shown(before)} == shown(before)
    assert head == f"round {before.round} of {before.rounds}"
    assert watched.text("#job") == "tiny"
    assert watched.page.title().endswith("· tiny")
    assert watched.console == []


def test_curves_grow_and_rounds_are_announced_without_reloading(paced: LiveRun, watched: Watched) -> None:
    page = watched.page
    page.evaluate("() => { window.same = true; }")
    before, said = watched.points(), watched.text("#announcement")
    watched.until("(n) => Number(document.querySelector('#chart-loss').dataset.points) >= n + 2", before)
    assert page.evaluate("() => window.same"), "the page was loaded again"
    assert watched.text("#announcement") != said
    committed = JobStatus.model_validate(paced.get("/v1/status").json()).committed_rounds
    watched.until("(n) => Number(document.querySelector('#chain-list details').dataset.round) >= n", committed)
    assert page.locator("#chart-perplexity").get_attribute("data-points") != "0"
    assert page.locator("#more canvas").count() >= 4
    assert watched.console == []


def test_each_participant_has_a_lane_that_says_what_it_does(paced: LiveRun, watched: Watched) -> None:
    lanes = watched.page.locator("#lanes-table tbody")
    assert [lane.get_attribute("data-participant") for lane in lanes.all()] == [REMOTE, "north", "south"]
    # Seen while it trains: step of steps, speed, loss.
    text = watched.until(
        """() => { const lane = document.querySelector("[data-participant=north][data-state=Training]");
                   return lane && lane.querySelector(".segment[style*=width]") && lane.innerText; }"""
    )
    assert re.search(r"\b\d+ / 400\b", text)
    assert re.search(r"training", text)
    assert "now" in text
    remote = watched.page.locator(f"[data-participant={REMOTE}]")
    assert remote.get_attribute("data-state") == "Absent"
    assert re.search(rf"not heard of since the aggregator started|{SAID_WHY}", remote.inner_text())


def test_a_commit_opens_to_what_it_was_made_of(paced: LiveRun, watched: Watched) -> None:
    entry = paced.get("/v1/history?after=0&limit=1").json()[0]
    while not watched.page.locator("details[data-round='1']").count():
        watched.page.locator("#chain-more").click()
    commit = watched.page.locator("details[data-round='1']")
    commit.locator("summary").focus()
    watched.page.keyboard.press("Enter")
    commit.locator("table").first.wait_for()
    text = commit.inner_text()
    for digest in (entry["digest"], entry["commit"]["previous"], entry["commit"]["plan"]):
        assert digest in text
    for update in entry["commit"]["accepted"]:
        row = commit.locator("tr", has_text=update["participant"]).first.inner_text()
        assert update["manifest"] in row
        assert f"{100 * update['weight']:.1f} %" in row
        assert f"{update['lossMean']:.3f}" in row
    assert watched.console == []


def test_who_is_killed_turns_absent_within_15_seconds_with_its_reason(
    paced: LiveRun, watched: Watched, tmp_path: Path
) -> None:
    """A participant elsewhere, whose worker nobody starts again."""
    north = paced.run.child("photon-worker", "run", "north")
    assert north is not None
    line = north.cmdline()
    data = Path(line[line.index("--data") + 1])
    with paced.remote_program(tmp_path, data) as worker:
        watched.page.wait_for_selector(f"[data-participant={REMOTE}][data-state=Training]")
        dying = [worker, *children(worker)]
        for process in dying:
            process.kill()
        began = time.monotonic()
        watched.page.wait_for_selector(f"[data-participant={REMOTE}][data-state=Absent]")
        took = time.monotonic() - began
    lane = watched.page.locator(f"[data-participant={REMOTE}]")
    assert re.search(SAID_WHY, lane.locator(".why").inner_text())
    watched.page.wait_for_selector(f"#events-list [data-kind=ParticipantAbsent]:has-text('{REMOTE}')")
    assert took < 15
    assert watched.console == []


def test_who_hangs_turns_absent_as_well_and_comes_back(paced: LiveRun, watched: Watched) -> None:
    watched.page.wait_for_selector("[data-participant=south][data-state=Training]")
    worker = paced.run.child("photon-worker", "run", "south")
    assert worker is not None
    everything = [worker, *children(worker)]
    for process in everything:
        process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    try:
        watched.page.wait_for_selector("[data-participant=south][data-state=Absent]")
        took = time.monotonic() - began
        lane = watched.page.locator("[data-participant=south]")
        reason = lane.locator(".why").inner_text()
        colour = lane.locator(".state").evaluate("(e) => getComputedStyle(e).color")
        assert colour == watched.page.evaluate(
            """() => { const e = document.createElement("p"); e.className = "bad"; document.body.append(e);
                       const found = getComputedStyle(e).color; e.remove(); return found; }"""
        )
        watched.page.wait_for_selector("#events-list [data-kind=ParticipantAbsent]:has-text('south')")
    finally:
        for process in everything:
            process.send_signal(signal.SIGCONT)
    assert took < 15
    assert re.search(SAID_WHY, reason)
    watched.page.wait_for_selector("[data-participant=south]:not([data-state=Absent])")
    assert lane.locator(".why").is_hidden()
    assert watched.console == []


def test_a_restarted_aggregator_keeps_its_history_and_the_page_says_what_it_misses(
    paced: LiveRun, watched: Watched
) -> None:
    before = watched.points()
    instance = paced.get("/v1/live").json()["instance"]
    aggregator = paced.run.child("photon-aggregator", "--listen")
    assert aggregator is not None
    # A restart may be quicker than the page gives up on an answer: it begins when the page has.
    paced.run.process.send_signal(signal.SIGSTOP)
    aggregator.send_signal(signal.SIGKILL)
    watched.until("() => document.querySelector('#connection').textContent.startsWith('connection lost since ')")
    assert re.fullmatch(r"connection lost since \d\d:\d\d:\d\d", watched.text("#connection"))
    assert watched.points() >= before, "what was known stays shown"
    paced.run.process.send_signal(signal.SIGCONT)
    watched.until("() => document.querySelector('#connection').textContent === 'live'")
    assert paced.get("/v1/live").json()["instance"] != instance
    watched.until("(n) => Number(document.querySelector('#chart-loss').dataset.points) > n + 1", before)
    assert watched.page.locator("#events-list .restart").count() == 1
    assert quiet(watched) == []
    # Whoever opens it only now sees the same.
    fresh = Watched.open(watched.page.context.browser, f"{paced.url}/")  # type: ignore[arg-type]
    fresh.until("(n) => Number(document.querySelector('#chart-loss').dataset.points) >= n", watched.points())
    fresh.close()
