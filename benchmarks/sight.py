"""`make bench-sight`: the cost of observability as a share of a round.

- **/metrics**: CPU time of one response of the real application, for synthetic jobs of several sizes
  (tools.histories.page). It runs on the event loop of the aggregator, so its share of a scrape interval is the
  maximum share of a round, independent of the round duration.
- **The worker journal** (JSON lines, at most one per second) **and a tracker**: CPU time per training step, compared
  with the step time of a small and fast model (that of the demo).
- **Disabled traces**: overhead per phase of a task for checking whether traces are enabled.

Writes runs/bench/sight.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from prometheus_client.exposition import choose_encoder

from benchmarks.telling import telling
from photon.protocol.messages import GlobalModel, TrainTask
from photon.telemetry.traces import Traces
from photon.telemetry.trackers import Kind, Subject, Trackers
from photon_aggregator.http.app import create_app
from photon_aggregator.http.auth import Tokens
from photon_worker.round.journal import Journal
from photon_worker.round.progress import TaskProgress
from tools.histories.page import made_up_engine, report

RESULT: Final = Path("runs/bench/sight.json")
# What Prometheus' operator and chart ask for by default is 30 s; a careful site asks twice as often.
SCRAPE_SECONDS: Final = 15.0
# Steps a second of the demo's model (0.84 M parameters) on one core: the least that a step may cost.
STEPS_A_SECOND: Final = 50.0
LIMIT: Final = 0.01
SIZES: Final = (4, 64, 256)


def seconds_each(work: Callable[[], object], *, at_least: float = 1.0) -> float:
    """Processor seconds of one call, over as many as take ``at_least`` seconds."""
    work()
    count, began = 0, time.process_time()
    while (spent := time.process_time() - began) < at_least:
        work()
        count += 1
    return spent / count


def scrape(participants: int) -> dict[str, float]:
    """One response of /metrics for a job with ``participants`` participants."""
    engine, history = made_up_engine(participants, rounds=100)
    report(engine, history, 0.5)
    app = create_app(engine=engine, tokens=Tokens({}))
    encode, _ = choose_encoder("application/openmetrics-text;version=1.0.0")
    size = len(encode(app.state.registry))
    seconds = seconds_each(lambda: encode(app.state.registry))
    return {
        "participants": participants,
        "bytes": size,
        "milliseconds": round(seconds * 1000, 3),
        "share_of_round": round(seconds / SCRAPE_SECONDS, 6),
    }


def journal(names: list[Kind]) -> dict[str, Any]:
    """A training step's share of the journal, a point a second, with these trackers."""
    commit = "0" * 64
    model = GlobalModel(round=0, commit=commit, files=[], valid_seconds=60)
    task = TrainTask(id="train-00001", round=1, plan=commit, model=model, first_step=0, local_steps=10**9)
    progress = TaskProgress(task.id)
    progress.loss, progress.learning_rate, progress.tokens_per_second = 2.5, 1e-3, 1e4
    now = 0.0

    def clock() -> float:
        return now

    def step() -> None:
        nonlocal now
        now += 1 / STEPS_A_SECOND
        progress.step += 1
        written.step(task, progress)

    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(job="bench", participant="north", axis="step")
        trackers = Trackers(names, folder=Path(folder), subject=subject)
        with Journal(Path(folder), trackers, local_steps=100, clock=clock) as written:
            seconds = seconds_each(step)
    return {
        "trackers": [name.value for name in names],
        "microseconds_per_step": round(seconds * 1e6, 2),
        "share_of_round": round(seconds * STEPS_A_SECOND, 6),
    }


def tracing_off() -> dict[str, float]:
    """A phase of a task with disabled traces."""
    off = Traces()

    def phase() -> None:
        with off.span("train"):
            pass

    return {"microseconds_per_phase": round(seconds_each(phase, at_least=0.3) * 1e6, 2)}


def main() -> int:
    """Measure, print, write; exit code 1 when something costs more than 1 % of a round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with telling("measuring scrapes and journals"):
        scrapes = [scrape(size) for size in SIZES]
        journals = [journal([]), journal([Kind.TENSORBOARD])]
    result = {
        "scrape_seconds": SCRAPE_SECONDS,
        "steps_a_second": STEPS_A_SECOND,
        "metrics": scrapes,
        "journal": journals,
        "traces_off": tracing_off(),
    }
    result["most_of_a_round"] = max(case["share_of_round"] for case in scrapes + journals)
    for case in scrapes:
        print(
            f"/metrics,  {case['participants']:>3} participants  {case['milliseconds']:8.2f} ms "
            f"{case['bytes'] / 1000:8.0f} kB {case['share_of_round']:10.3%} of a round"
        )
    for case in journals:
        what = " + ".join(["lines of JSON", *case["trackers"]])
        print(f"{what:<28} {case['microseconds_per_step']:8.2f} µs per step {case['share_of_round']:15.3%} of a round")
    print(f"disabled traces              {result['traces_off']['microseconds_per_phase']:8.2f} µs per phase")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    good = result["most_of_a_round"] < LIMIT
    verdict = "below" if good else "NOT below"
    print(f"at most {result['most_of_a_round']:.3%} of a round: {verdict} the limit of {LIMIT:.0%}")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
