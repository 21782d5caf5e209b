"""Run by torchrun in each rank (test_fsdp.py): what the strategy does goes to files, for the test to judge.

fsdp_program.py CASES.json OUTPUT
"""

from __future__ import annotations

import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from photon.api.training import Codec, LocalSpec
from photon.codec import part_ranges
from photon.store.source import FileSource
from photon_worker.data import Mixture
from photon_worker.distributed import fsdp
from photon_worker.distributed.fsdp import FSDP
from photon_worker.round.update import encoded_parts
from photon_worker.training import model as models
from photon_worker.training.device import choose
from photon_worker.training.evaluate import EvaluationSettings, Share, held_out_loss
from photon_worker.training.loop import Totals, Training, train
from photon_worker.training.strategy import VECTORS

Json = dict[str, Any]


class Largest(TorchDispatchMode):
    """The largest tensor that any operation gives, in bytes; numpy's by tracemalloc's peak."""

    tensor_bytes = 0
    numpy_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else [result]:
            if isinstance(tensor, torch.Tensor) and not tensor.is_meta:
                self.tensor_bytes = max(self.tensor_bytes, tensor.untyped_storage().nbytes())
        return result

    def __enter__(self) -> Any:
        tracemalloc.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.numpy_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


class Program:
    """The cases. Files of each start with the case's name."""

    def __init__(self, cases: Json, output: Path) -> None:
        self.cases = cases
        self.output = output
        self.device = choose(1)
        self.data = Mixture.open({"a": cases["data"]})
        self.source = FileSource(cases["weights"])

    def strategy(self, **local: Any) -> tuple[FSDP, LocalSpec]:
        spec = LocalSpec.model_validate(self.cases["local"] | local)
        made = FSDP(models.config_from(self.cases["config"]), spec, device=self.device)
        made.load(self.source)
        return made, spec

    def read(self, strategy: FSDP, vector: Any, step: int) -> np.ndarray:
        out = np.zeros(strategy.header.elements, dtype=np.float32)
        for start in range(0, len(out), step):
            strategy.read(vector, start, out[start : start + step])
        return out

    def save(self, name: str, **arrays: Any) -> None:
        if dist.get_rank() == 0:
            np.savez(self.output / f"{name}.npz", **arrays)

    def vectors(self) -> None:
        strategy, _ = self.strategy()
        self.save("loaded", weights=self.read(strategy, "weights", 1000))
        given = np.load(self.cases["bits"])
        for number, name in enumerate(VECTORS):
            values = np.roll(given, number)
            for start in range(0, len(values), 777):
                strategy.write(name, start, values[start : start + 777])
        self.save("written", **{name: self.read(strategy, name, 1313) for name in VECTORS})

    def training(self, name: str, **local: Any) -> None:
        strategy, spec = self.strategy(**local)
        losses: list[float | None] = []
        totals = Totals(self.device)
        train(
            strategy,
            Training(
                batches=Batches(self.data, spec),
                local=spec,
                seed=7,
                participant="a",
                first_step=0,
                until=spec.steps,
            ),
            totals,
            after_step=lambda report: losses.append(report.loss),
        )
        norms = totals.metrics().grad_norm_mean, totals.metrics().grad_norm_max
        weights = self.read(strategy, "weights", 4096)
        self.save(name, losses=losses, weights=weights, norms=norms, steps=strategy.optimizer_steps)
        if name == "fp32":
            self.evaluation(strategy, spec)

    def evaluation(self, strategy: FSDP, spec: LocalSpec) -> None:
        result = held_out_loss(
            strategy.infer,
            self.data.sources["a"].held_out,
            EvaluationSettings(
                sequence_length=spec.sequence_length, batch_size=2, max_tokens=None, precision=spec.precision
            ),
            device=self.device,
            share=Share.of(strategy),
        )
        # Weights that are written after an inference are those of the next one.
        strategy.load(self.source)
        fresh = strategy.infer(torch.zeros((1, 4), dtype=torch.int64)).detach().numpy()
        self.save("evaluation", loss_sum=result.loss_sum, tokens=result.tokens, fresh=fresh)

    def skipping(self) -> None:
        """In the second step of three the gradient of one process is infinite."""
        strategy, spec = self.strategy(steps=3)
        module: Any = strategy.module
        calls = [0]

        def spoil(*call: Any) -> Any:
            calls[0] += 1
            return call[2] * (float("inf") if calls[0] == 2 and dist.get_rank() == 1 else 1.0)

        module.model.norm.register_forward_hook(spoil)
        seen: list[np.ndarray] = []
        totals = Totals(self.device)
        train(
            strategy,
            Training(
                batches=Batches(self.data, spec),
                local=spec,
                seed=7,
                participant="a",
                first_step=0,
                until=3,
            ),
            totals,
            after_step=lambda _: seen.append(self.read(strategy, "weights", 4096)),
        )
        self.save("skipping", weights=seen, skipped=totals.metrics().skipped_steps, steps=strategy.optimizer_steps)

    def experts(self) -> None:
        spec = LocalSpec.model_validate(self.cases["local"] | {"steps": 5})
        strategy = FSDP(models.config_from(self.cases["experts_config"]), spec, device=self.device)
        strategy.load(FileSource(self.cases["experts_weights"]))
        totals = Totals(self.device)
        train(
            strategy,
            Training(
                batches=Batches(self.data, spec),
                local=spec,
                seed=7,
                participant="a",
                first_step=0,
                until=5,
            ),
            totals,
            after_step=lambda _: None,
        )
        metrics = totals.metrics()
        weights = self.read(strategy, "weights", 4096)
        self.save("experts", weights=weights, loss=metrics.loss_mean, balance=metrics.balance_loss_mean)

    def compiled(self) -> None:
        spec = LocalSpec.model_validate(self.cases["local"])
        strategy = FSDP(models.config_from(self.cases["config"]), spec, device=self.device, compile=True)
        strategy.load(self.source)
        torch._dynamo.utils.counters.clear()
        logits = strategy.infer(torch.zeros((1, 4), dtype=torch.int64)).detach().numpy()
        compiled = torch._dynamo.utils.counters["frames"]["total"]
        self.save("compiled", logits=logits, compiled=compiled)

    def memory(self) -> None:
        models.BLOCK_ELEMENTS = 2048
        base = FileSource(self.cases["large_weights"])
        with Largest() as building:
            spec = LocalSpec.model_validate(self.cases["local"])
            strategy = FSDP(models.config_from(self.cases["large_config"]), spec, device=self.device)
            strategy.load(base)
        header = strategy.header
        with Largest() as streaming:
            if strategy.is_main:
                for part, _ in encoded_parts(
                    strategy, base, base.size_bytes - header.data_bytes, codec_name=Codec.DENSE_FP32, part_bytes=8192
                ):
                    strategy.write("exp_avg", part.start, np.zeros(part.stop - part.start, dtype=np.float32))
            else:  # as follower.py does it: only the main process has values
                for start, stop in part_ranges(header.elements, 8192):
                    for _ in strategy.blocks("weights", start, stop - start):
                        pass
                    strategy.receive("exp_avg", start, stop - start)
        local = [tensor.numel() for p in models.parameters(strategy.module).values() for tensor in [fsdp._local(p)]]
        result = {
            "total": header.data_bytes,
            "largest_parameter": max(entry.stop - entry.start for entry in header.entries),
            "building": building.tensor_bytes,
            "streaming": streaming.tensor_bytes,
            "numpy": streaming.numpy_bytes,
            "shard": 4 * sum(local),
        }
        (self.output / f"memory-{dist.get_rank()}.json").write_text(json.dumps(result))


class Batches:
    def __init__(self, data: Mixture, spec: LocalSpec) -> None:
        self.data, self.spec = data, spec

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> Any:
        spec = self.spec
        return self.data.batch(
            seed=7, step=step, batch_size=spec.batch_size, sequence_length=spec.sequence_length, start=start, stop=stop
        )


def main() -> None:
    dist.init_process_group("gloo")
    program = Program(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
    program.vectors()
    program.memory()
    program.compiled()
    program.skipping()
    program.experts()
    program.training("fp32")
    program.training("bf16", precision="bf16")
    program.training("accumulated", microBatchSize=2, steps=5)
    program.training("decaying", optimizer={"weightDecay": 1.0, "weightDecayOn": "Matrices"}, steps=5)
    fsdp.UNSHARDED_GRADIENT_BYTES = 0  # type: ignore[misc]
    program.training("accumulated_sharded", microBatchSize=2, steps=5)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
