"""`make bench-worker`: the worker loop compared with a plain PyTorch loop, and the overhead of a round.

(a) Tokens per second of the training loop of photon_worker and of a minimal loop with the same Hugging Face model,
    optimizer settings, precision, and data. In each of several fresh processes the two loops alternate every few steps;
    the result is the median of the ratios of adjacent blocks, because the machine may be shared.
(b) A real job with two workers in `photon run`: wall time of a round minus the longest training time in it, from the
    records of the run; the mean over all rounds except the first.

Writes runs/bench/worker.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from benchmarks.telling import telling

SEQUENCE: Final = 256
BATCH: Final = 8
WARM_UP_STEPS: Final = 3
RESULT: Final = Path("runs/bench/worker.json")
JOB: Final = """
apiVersion: photon.dev/v1alpha1
kind: FederatedTrainingJob
metadata: {{name: bench-worker}}
spec:
  model: {{preset: llama-10m}}
  rounds: {rounds}
  local: {{steps: {steps}, batchSize: {batch}, sequenceLength: {sequence}, precision: bf16}}
  evaluation: {{everyRounds: 0, maxTokens: 4096}}
  participants:
    - {{name: north, worker: {{data: {{uri: {data}}}, resources: {{cpus: {cpus}}}}}}}
    - {{name: south, worker: {{data: {{uri: {data}}}, resources: {{cpus: {cpus}}}}}}}
"""


def prepare_data(folder: Path) -> Path:
    """The standard library's sources as tokens: real text that is on every machine."""
    out = folder / "data"
    source = Path(os.__file__).parent
    subprocess.run(
        [
            *(_program("photon-worker"), "data", "prepare", str(source), "--output", str(out)),
            *("--format", "source", "--include", "*.py", "--max-bytes", "8000000"),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return out


def child(data: Path, *, blocks: int, steps: int, threads: int, precision: str) -> None:
    """One measured process: both loops, block by block in turn; prints tokens a second of each block."""
    import torch

    torch.set_num_threads(threads)
    loops = {
        "photon": photon_loop(data, precision, until=WARM_UP_STEPS + blocks * steps),
        "plain": plain_loop(data, precision),
    }
    for run in loops.values():
        run(WARM_UP_STEPS)
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for block in range(blocks):
        # Who goes first alternates: a machine that slows down would otherwise favour one.
        for name in list(loops) if block % 2 == 0 else list(reversed(loops)):
            began = time.perf_counter()
            loops[name](steps)
            rates[name].append(steps * BATCH * SEQUENCE / (time.perf_counter() - began))
    print(json.dumps(rates))


def photon_loop(data: Path, precision: str, *, until: int) -> Callable[[int], None]:
    """The worker's own loop with all that it does after a step but checkpoints. Called with the steps to go."""
    import torch

    from photon.api.presets import PRESETS
    from photon.api.training import LearningRate, LocalSpec
    from photon_worker.data import Mixture
    from photon_worker.round.progress import TaskProgress
    from photon_worker.training import device as devices
    from photon_worker.training import model as models
    from photon_worker.training.loop import StepReport, Totals, Training, train
    from photon_worker.training.strategy import Single

    local = LocalSpec.model_validate(
        {
            "steps": until,
            "batchSize": BATCH,
            "microBatchSize": BATCH,
            "sequenceLength": SEQUENCE,
            "precision": precision,
            "learningRate": LearningRate(total_steps=until).model_dump(),
        }
    )
    mixture = Mixture.open({"bench": str(data)})
    device = devices.choose(torch.get_num_threads())
    strategy = Single(models.config_from(PRESETS["llama-10m"]), local.optimizer, device=device)
    initial = models.build(models.config_from(PRESETS["llama-10m"]), seed=0)
    flat = torch.cat([p.detach().reshape(-1) for p in models.parameters(initial).values()])
    strategy.write("weights", 0, flat.numpy())
    progress = TaskProgress("train-00001")
    totals = Totals(device)

    class Batches:
        def batch(self, step: int) -> Any:
            return mixture.batch(seed=0, step=step, batch_size=BATCH, sequence_length=SEQUENCE)

    def after_step(report: StepReport) -> None:
        progress.step, progress.loss = report.local_step, report.loss
        progress.memory_bytes = devices.memory_bytes(device)
        progress.check()

    def run(steps: int) -> None:
        train(
            strategy,
            Training(
                batches=Batches(),
                local=local,
                seed=0,
                participant="bench",
                first_step=0,
                until=totals.steps + steps,
            ),
            totals,
            after_step=after_step,
        )

    return run


def plain_loop(data: Path, precision: str) -> Callable[[int], None]:
    """A minimal loop: no accumulation, no resume, no reports; called with how many steps to go on."""
    import torch
    import torch.nn.functional as F
    from transformers import AutoConfig, AutoModelForCausalLM

    from photon.api.presets import PRESETS
    from photon_worker.data import Mixture

    mixture = Mixture.open({"bench": str(data)})
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = dict(PRESETS["llama-10m"])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.0)
    numbers = itertools.count()

    def run(steps: int) -> None:
        for step in itertools.islice(numbers, steps):
            rows = mixture.batch(seed=0, step=step, batch_size=BATCH, sequence_length=SEQUENCE)
            tokens = torch.from_numpy(rows).to(device)
            with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
                logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
                loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            loss.item()

    return run


def compare_loops(data: Path, *, runs: int, blocks: int, steps: int, threads: int) -> dict[str, Any]:
    """Ratios of tokens/s by precision: the median over all pairs of adjacent blocks of all runs."""
    result: dict[str, Any] = {}
    for precision in ("bf16", "fp32"):
        rates: dict[str, list[float]] = {"photon": [], "plain": []}
        for number in range(1, runs + 1):
            command = [
                *(sys.executable, "-m", "benchmarks.worker", "--child", "--data", str(data)),
                *("--blocks", str(blocks), "--steps", str(steps), "--threads", str(threads), "--precision", precision),
            ]
            env = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
            with telling(f"both loops in {precision}, process {number} of {runs}"):
                output = subprocess.run(command, check=True, env=env, stdout=subprocess.PIPE, text=True).stdout
            for loop, values in json.loads(output.splitlines()[-1]).items():
                rates[loop] += values
        ratios = [ours / theirs for ours, theirs in zip(rates["photon"], rates["plain"], strict=True)]
        result[precision] = {
            "of_plain_loop": statistics.median(ratios),
            "tokens_per_second": {loop: statistics.median(values) for loop, values in rates.items()},
            "blocks": rates,
        }
    return result


def round_overhead(data: Path, folder: Path, *, rounds: int, steps: int, threads: int) -> dict[str, Any]:
    """Seconds of a round that are not training, through `photon run` with two workers."""
    job = folder / "bench-worker.yaml"
    cpus = max(1, threads // 2)
    job.write_text(JOB.format(rounds=rounds, steps=steps, batch=BATCH, sequence=SEQUENCE, data=data, cpus=cpus))
    run_dir = folder / "run"
    subprocess.run([_program("photon"), "run", str(job), "--runs-dir", str(folder), "--name", "run"], check=True)
    logs = [
        line["record"]
        for line in map(json.loads, (run_dir / "history.jsonl").read_text().splitlines())
        if line["kind"] == "log"
    ]
    return overhead_of(logs)


def overhead_of(logs: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean over RoundLog records but the first round's, whose workers start up.

    A round lasts from the commit before it to its own, so planning and handing out tasks count.
    """
    seconds: list[float] = []
    phases: dict[str, list[float]] = {}
    ordered = sorted(logs, key=lambda log: int(log["round"]))
    for before, log in pairwise(ordered):
        began, ended = (datetime.fromisoformat(one["committedAt"]) for one in (before, log))
        slowest = max(p["seconds"].get("train", 0.0) for p in log["participants"].values())
        seconds.append((ended - began).total_seconds() - slowest)
        for participant in log["participants"].values():
            for phase, value in participant["seconds"].items():
                phases.setdefault(phase, []).append(value)
        for phase, value in log["seconds"].items():
            phases.setdefault(f"aggregator {phase}", []).append(value)
    return {
        "round_overhead_seconds": statistics.mean(seconds),
        "by_round": seconds,
        "phases": {phase: statistics.mean(values) for phase, values in phases.items()},
    }


def _program(name: str) -> str:
    """A program of this environment."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise SystemExit(f"{name} is not installed in this environment: run `make setup`")
    return found


def main() -> None:
    """Run everything, or one measured child process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="number of processes that run both loops")
    parser.add_argument("--blocks", type=int, default=4, help="number of blocks per loop and run")
    parser.add_argument("--steps", type=int, default=4, help="steps per block")
    parser.add_argument("--rounds", type=int, default=4, help="number of rounds of the job")
    parser.add_argument("--round-steps", type=int, default=8, help="local steps per round")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", choices=["loop", "rounds"])
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(
            arguments.data,
            blocks=arguments.blocks,
            steps=arguments.steps,
            threads=arguments.threads,
            precision=arguments.precision,
        )
        return
    result: dict[str, Any] = {"threads": arguments.threads, "model": "llama-10m", "sequence": SEQUENCE, "batch": BATCH}
    with tempfile.TemporaryDirectory(prefix="bench-worker-") as temporary:
        folder = Path(temporary)
        with telling("preparing data"):
            data = prepare_data(folder)
        if arguments.only != "rounds":
            loops = compare_loops(
                data, runs=arguments.runs, blocks=arguments.blocks, steps=arguments.steps, threads=arguments.threads
            )
            result |= {"of_plain_loop": loops["bf16"]["of_plain_loop"], "loops": loops}
            print(f"\n{'tokens/s':10}{'plain loop':>14}{'photon':>14}{'ratio':>10}")
            for precision, values in loops.items():
                rates = values["tokens_per_second"]
                row = f"{rates['plain']:>14,.0f}{rates['photon']:>14,.0f}{values['of_plain_loop']:>10.3f}"
                print(f"{precision:10}{row}")
        if arguments.only != "loop":
            overhead = round_overhead(
                data, folder, rounds=arguments.rounds, steps=arguments.round_steps, threads=arguments.threads
            )
            result |= {"round_overhead_seconds": overhead["round_overhead_seconds"], "rounds": overhead}
            print(f"\nround overhead (not training): {overhead['round_overhead_seconds']:.2f} s")
            for phase, seconds in overhead["phases"].items():
                print(f"  {phase:20}{seconds:8.2f} s")
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nwritten: {RESULT}")


if __name__ == "__main__":
    main()
