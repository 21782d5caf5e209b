"""`make bench-page`: the aggregator page with a long history of many participants, in a real browser.

A synthetic job with 64 participants and 1,000 rounds behind the real application (tools.histories.page) continues
during the measurement: reports every second, a round every few seconds. Measured in the browser:

- bytes transferred until the page is complete, including scripts and history;
- seconds from the page request to the first curve;
- milliseconds between frames during updates (95th percentile), and time per second spent in long tasks of the page.

Writes runs/bench/page.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.telling import telling
from tools.browser import chromium, find_chromium

RESULT: Final = Path("runs/bench/page.json")
VIEWPORT: Final = {"width": 1360, "height": 900}
SHOWN: Final = """() => {
  const figure = document.querySelector("#chart-loss:not([data-points='0']) canvas");
  return figure && document.querySelector("#events-list li") ? performance.now() : false;
}"""
DRAWN: Final = (
    """() => document.querySelector("#chart-loss:not([data-points='0']) canvas") ? performance.now() : false"""
)
FRAMES: Final = """(milliseconds) => new Promise((done) => {
  const frames = [], tasks = [];
  const watch = new PerformanceObserver((list) => tasks.push(...list.getEntries().map((e) => e.duration)));
  watch.observe({ entryTypes: ["longtask"] });
  let before = performance.now();
  const began = before;
  requestAnimationFrame(function frame(now) {
    frames.push(now - before);
    before = now;
    if (now - began < milliseconds) requestAnimationFrame(frame); else done({ frames: frames.slice(1), tasks });
  });
})"""


@contextmanager
def serving(*, participants: int, rounds: int, every_seconds: float) -> Iterator[str]:
    """The address of a made-up job, served by a process of its own."""
    command = [sys.executable, "-m", "tools.histories.page", "--listen", "127.0.0.1:0"]
    command += ["--participants", str(participants), "--rounds", str(rounds), "--every-seconds", str(every_seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address:
            raise RuntimeError(f"{' '.join(command)} exited with code {process.wait(timeout=10)}")
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def measure(executable: str, address: str, *, seconds: float) -> dict[str, Any]:
    """Open the page at ``address``, watch it for ``seconds``, and say what it cost."""
    with chromium(executable) as browser:
        page = browser.new_page(viewport=VIEWPORT)  # type: ignore[arg-type]
        network = page.context.new_cdp_session(page)
        network.send("Network.enable")
        sizes: list[float] = []
        network.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
        page.goto(address)
        drawn = page.wait_for_function(DRAWN, polling="raf").json_value()
        page.wait_for_function(SHOWN, polling="raf")
        transferred = sum(sizes)
        began = page.evaluate("() => document.querySelector('#chart-loss').dataset.points")
        watched = page.evaluate(FRAMES, seconds * 1000)
        ended = page.evaluate("() => document.querySelector('#chart-loss').dataset.points")
        version = browser.version
    frames = sorted(watched["frames"])
    return {
        "bytes": int(transferred),
        "first_curve_seconds": round(drawn / 1000, 3),
        "frame_ms_p50": round(statistics.median(frames), 2),
        "frame_ms_p95": round(frames[int(0.95 * len(frames))], 2),
        "frame_ms_max": round(frames[-1], 2),
        "long_task_ms_per_second": round(sum(watched["tasks"]) / seconds, 2),
        "frames": len(frames),
        "rounds_seen": [int(began), int(ended)],
        "chromium": version,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--participants", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--every-seconds", type=float, default=3.0)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    executable = find_chromium()
    if executable is None:
        raise SystemExit("error: no Chromium found: install the Debian package `chromium`, or set CHROMIUM to its path")
    made_up = serving(
        participants=arguments.participants, rounds=arguments.rounds, every_seconds=arguments.every_seconds
    )
    with telling("measuring the page of a synthetic job"), made_up as address:
        found = measure(executable, address, seconds=arguments.seconds)
    found |= {"participants": arguments.participants, "rounds": arguments.rounds}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{arguments.participants} participants, {arguments.rounds} rounds, Chromium {found['chromium']}")
    print(f"  transferred until complete       {found['bytes'] / 1000:7.1f} kB")
    print(f"  time to first curve              {found['first_curve_seconds']:7.2f} s")
    print(
        f"  frame interval during updates    {found['frame_ms_p50']:7.1f} ms (median), "
        f"{found['frame_ms_p95']:.1f} (95th percentile), {found['frame_ms_max']:.1f} (maximum)"
    )
    print(f"  tasks over 50 ms                 {found['long_task_ms_per_second']:7.1f} ms per second")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
