"""FSDP on two real processes against Single in this one: the same vectors, the same tokens, the same losses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from photon.api.training import LocalSpec
from photon.store.source import FileSource
from photon_worker.data import Mixture
from photon_worker.training import model as models
from photon_worker.training.evaluate import EvaluationSettings, held_out_loss
from photon_worker.training.loop import Totals, Training, train
from photon_worker.training.strategy import VECTORS, Single

pytestmark = pytest.mark.timeout(600)

# No dimension but the heads' is even: every shard is cut unevenly, and a norm's 33rd element is rank 1's.
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 33,
    "head_dim": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "intermediate_size": 51,
    "vocab_size": 265,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
# Products of experts want rows of whole 16 bytes.
EXPERTS = CONFIG | {
    "model_type": "mixtral",
    "hidden_size": 36,
    "intermediate_size": 52,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "router_aux_loss_coef": 0.5,
}
LARGE = CONFIG | {"intermediate_size": 1001}
LOCAL: dict[str, Any] = {
    "steps": 50,
    "batchSize": 8,
    "sequenceLength": 32,
    "precision": "fp32",
    "learningRate": {"max": 0.003, "warmupSteps": 5, "totalSteps": 50},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the two ranks wrote, and what they were given."""

    folder: Path
    data: Mixture
    weights: np.ndarray
    bits: np.ndarray

    def arrays(self, name: str) -> Any:
        return np.load(self.folder / f"{name}.npz")

    def single(
        self, config: dict[str, Any] = CONFIG, file: str = "model", **local: Any
    ) -> tuple[Single, list[Any], Totals]:
        """The same training in this process."""
        spec = LocalSpec.model_validate(LOCAL | local)
        strategy = Single(models.config_from(config), spec.optimizer, device=torch.device("cpu"))
        source = FileSource(self.folder / f"{file}.safetensors")
        strategy.load(source)
        source.close()
        losses: list[Any] = []
        totals = Totals(strategy.device)
        data = self.data

        class Batches:
            def batch(self, step: int, start: int = 0, stop: int | None = None) -> Any:
                return data.batch(seed=7, step=step, batch_size=8, sequence_length=32, start=start, stop=stop)

        train(
            strategy,
            Training(
                batches=Batches(),
                local=spec,
                seed=7,
                participant="a",
                first_step=0,
                until=spec.steps,
            ),
            totals,
            after_step=lambda report: losses.append(report.loss),
        )
        return strategy, losses, totals


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    from tests.worker.conftest import write_data

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("fsdp")
    data = write_data(folder / "data", tokens=20_000, held_out=500)
    model = models.build(models.config_from(CONFIG), seed=7)
    models.write_weights(model, folder / "model.safetensors")
    weights = torch.cat([p.detach().reshape(-1) for p in models.parameters(model).values()]).numpy()
    models.write_weights(models.build(models.config_from(LARGE), seed=7), folder / "large.safetensors")
    # Any bits at all: NaNs with payloads, negative zeros, denormals.
    bits = np.random.default_rng(0).integers(0, 2**32, len(weights), dtype=np.uint32).view(np.float32)
    bits[:3] = [-0.0, np.nan, 1e-45]
    np.save(folder / "bits.npy", bits)
    models.write_weights(models.build(models.config_from(EXPERTS), seed=7), folder / "experts.safetensors")
    cases = {
        "experts_config": EXPERTS,
        "experts_weights": str(folder / "experts.safetensors"),
        "config": CONFIG,
        "local": LOCAL,
        "data": str(data),
        "weights": str(folder / "model.safetensors"),
        "bits": str(folder / "bits.npy"),
        "large_config": LARGE,
        "large_weights": str(folder / "large.safetensors"),
    }
    (folder / "cases.json").write_text(json.dumps(cases))
    program = Path(__file__).with_name("fsdp_program.py")
    result = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program)),
            *(str(folder / "cases.json"), str(folder)),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return Outcome(folder=folder, data=Mixture.open({"a": str(data)}), weights=weights, bits=bits)


def test_weights_after_loading_are_those_of_the_file(outcome: Outcome) -> None:
    np.testing.assert_array_equal(outcome.arrays("loaded")["weights"], outcome.weights)


@pytest.mark.parametrize("vector", VECTORS)
def test_what_is_written_by_ranges_is_read_by_other_ranges_bit_for_bit(outcome: Outcome, vector: str) -> None:
    expected = np.roll(outcome.bits, VECTORS.index(vector))  # type: ignore[arg-type]
    found = outcome.arrays("written")[vector]
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


def test_fifty_steps_in_fp32_have_the_losses_of_one_process(outcome: Outcome) -> None:
    strategy, losses, totals = outcome.single()
    found = outcome.arrays("fp32")
    np.testing.assert_allclose(found["losses"], losses, atol=1e-4)
    assert losses[-1] < losses[0] - 1.0, "nothing was learned"
    ours = np.empty_like(outcome.weights)
    strategy.read("weights", 0, ours)
    update, single = outcome.weights - found["weights"], outcome.weights - ours
    assert np.linalg.norm(update - single) < 1e-3 * np.linalg.norm(single)
    metrics = totals.metrics()
    np.testing.assert_allclose(found["norms"], [metrics.grad_norm_mean, metrics.grad_norm_max], rtol=1e-4)
    assert found["steps"] == 50


def test_fifty_steps_in_bf16_end_with_the_loss_of_one_process(outcome: Outcome) -> None:
    _, losses, _ = outcome.single(precision="bf16")
    found = outcome.arrays("bf16")
    assert abs(found["losses"][-1] - losses[-1]) < 1e-3
    np.testing.assert_allclose(found["losses"], losses, atol=5e-3)
    assert (found["weights"].view(np.uint32) & 0xFFFF).any(), "the master weights were rounded to bf16"
    assert not np.array_equal(found["losses"], outcome.arrays("fp32")["losses"])


@pytest.mark.parametrize("case", ["accumulated", "accumulated_sharded"])
def test_accumulated_micro_batches_equal_the_whole_batch(outcome: Outcome, case: str) -> None:
    np.testing.assert_allclose(outcome.arrays(case)["losses"], outcome.arrays("fp32")["losses"][:5], atol=1e-5)


def test_an_evaluation_is_that_of_one_process(outcome: Outcome) -> None:
    strategy, _, _ = outcome.single()
    settings = EvaluationSettings(
        sequence_length=32, batch_size=2, max_tokens=None, precision=LocalSpec.model_validate(LOCAL).precision
    )
    held_out = outcome.data.sources["a"].held_out
    expected = held_out_loss(strategy.infer, held_out, settings, device=strategy.device)
    found = outcome.arrays("evaluation")
    assert found["tokens"] == expected.tokens
    assert found["loss_sum"] == pytest.approx(expected.loss_sum, rel=1e-4)

    strategy.write("weights", 0, outcome.weights.copy())
    fresh = strategy.infer(torch.zeros((1, 4), dtype=torch.int64)).detach().numpy()
    np.testing.assert_allclose(found["fresh"], fresh, atol=1e-5)


def test_a_gradient_that_is_not_finite_at_one_process_changes_nothing_at_any(outcome: Outcome) -> None:
    found = outcome.arrays("skipping")
    first, second, third = found["weights"]
    np.testing.assert_array_equal(second, first)
    assert np.isfinite(third).all()
    assert np.abs(third - second).max() > 1e-5, "training goes on"
    assert (found["skipped"], found["steps"]) == (1, 2)


def test_a_mixture_of_experts_balances_each_process_s_rows(outcome: Outcome) -> None:
    """Two processes with 4 rows each do what one does with micro batches of 4."""
    found = outcome.arrays("experts")
    strategy, _, totals = outcome.single(EXPERTS, "experts", steps=5, microBatchSize=4)
    ours = np.empty(strategy.header.elements, dtype=np.float32)
    strategy.read("weights", 0, ours)
    metrics = totals.metrics()
    assert found["loss"] == pytest.approx(metrics.loss_mean, abs=1e-4)
    assert found["balance"] == pytest.approx(metrics.balance_loss_mean, abs=1e-4)
    np.testing.assert_allclose(found["weights"], ours, atol=1e-4)


def test_weight_decay_is_on_the_same_weights_as_in_one_process(outcome: Outcome) -> None:
    strategy, _, _ = outcome.single(optimizer={"weightDecay": 1.0, "weightDecayOn": "Matrices"}, steps=5)
    ours = np.empty_like(outcome.weights)
    strategy.read("weights", 0, ours)
    np.testing.assert_allclose(outcome.arrays("decaying")["weights"], ours, atol=1e-5)


def test_an_evaluation_of_a_compiled_model_compiles_nothing(outcome: Outcome) -> None:
    found = outcome.arrays("compiled")
    assert found["compiled"] == 0
    np.testing.assert_array_equal(found["logits"], outcome.arrays("evaluation")["fresh"])


@pytest.mark.parametrize("rank", [0, 1])
def test_no_process_ever_holds_the_model(outcome: Outcome, rank: int) -> None:
    seen = json.loads((outcome.folder / f"memory-{rank}.json").read_text())
    assert seen["shard"] < 0.55 * seen["total"]
    assert seen["building"] <= seen["largest_parameter"] < seen["total"] / 8
    # What is streamed goes block by block; the largest tensor that it touches is a shard of one parameter.
    assert seen["streaming"] <= seen["largest_parameter"]
    assert seen["numpy"] < seen["total"] / 8
