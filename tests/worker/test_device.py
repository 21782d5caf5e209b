"""What a token costs and what a device could do, and in which arithmetic it works."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from photon.api.training import Precision
from photon_worker.training import device as devices
from photon_worker.training import model as models
from photon_worker.training.flops import active_parameters, flops_per_token

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 264,
    "max_position_embeddings": 64,
}
MOE = LLAMA | {"num_experts_per_tok": 2, "tie_word_embeddings": False}


def active(config: dict[str, Any]) -> tuple[float, int]:
    """Active parameters, and all."""
    made = models.config_from(config)
    header = models.layout(models.build(made, seed=0))
    return active_parameters(header, made), header.elements


def products(config: dict[str, Any]) -> float:
    """Multiply-adds of a forward pass for one token as torch counts them, without attention's own."""
    from torch.utils.flop_counter import FlopCounterMode

    model = models.build(models.config_from(config), seed=0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.arange(64)[None], use_cache=False)
    by_name = {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}
    return sum(count for name, count in by_name.items() if "attention" not in name) / 2 / 64


@pytest.mark.parametrize("tied", [True, False])
def test_an_embedding_that_is_only_looked_up_costs_nothing(tied: bool) -> None:
    config = LLAMA | {"tie_word_embeddings": tied}
    found, total = active(config)
    # Norms are parameters and no matrices: a few in ten thousand.
    assert found == pytest.approx(products(config), rel=0.01)
    assert total - found == pytest.approx(0 if tied else 264 * 32)


@pytest.mark.parametrize(
    "config",
    [
        MOE | {"model_type": "mixtral", "num_local_experts": 8},
        MOE | {"model_type": "qwen3_moe", "num_experts": 8, "moe_intermediate_size": 40, "head_dim": 16},
        MOE
        | {
            "model_type": "qwen2_moe",
            "num_experts": 4,
            "moe_intermediate_size": 40,
            "shared_expert_intermediate_size": 48,
        },
    ],
    ids=lambda config: config["model_type"],
)
def test_of_the_experts_only_those_count_that_a_token_is_sent_to(config: dict[str, Any]) -> None:
    found, total = active(config)
    experts = config.get("num_experts") or config["num_local_experts"]
    width = config.get("moe_intermediate_size") or config["intermediate_size"]
    idle = 2 * (experts - 2) * 3 * width * 32
    assert found == pytest.approx(total - 264 * 32 - idle)


def test_a_token_costs_six_for_each_active_parameter_and_attention() -> None:
    made = models.config_from(LLAMA)
    header = models.layout(models.build(made, seed=0))
    found = flops_per_token(header, made, sequence_length=100)
    assert found == 6 * active_parameters(header, made) + 12 * 2 * 32 * 100


@pytest.mark.s3
def test_utilization_is_that_of_all_devices(
    aggregator: Any, new_participant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process that does 0.4 of its device's peak and eight that do so each report the same."""
    seen: list[float] = []
    for size in (1, 8):
        participant = new_participant()
        monkeypatch.setattr(participant, "_peak_of_one", 1e9)
        real = participant._context.control.strategy

        def several(config: Any, real: Any = real, size: int = size) -> Any:
            strategy = real(config)
            strategy.size = size
            return strategy

        monkeypatch.setattr(participant._context.control, "strategy", several)
        folder = participant._models.fetch(aggregator.train_task().model, Quiet())
        strategy = participant._ready(folder)
        rate = size * 0.4 * 1e9 / flops_per_token(strategy.header, strategy.module.config, sequence_length=16)
        progress = Quiet()
        participant._report(report(rate), progress)
        seen.append(progress.mfu)
    np.testing.assert_allclose(seen, 0.4)


class Quiet:
    """A task's progress that nobody reads."""

    mfu: float

    def received(self, count: int) -> None:
        pass

    def retried(self) -> None:
        pass

    def check(self) -> None:
        pass


def report(tokens_per_second: float) -> Any:
    from photon_worker.training.loop import StepReport

    return StepReport(
        local_step=1, loss=1.0, skipped=0, skipped_in_a_row=0, learning_rate=0.1, tokens_per_second=tokens_per_second
    )


@pytest.mark.parametrize(
    ("precision", "matrices", "convolutions"),
    [("fp32", "highest", False), ("bf16", "highest", False), ("tf32", "high", True)],
)
def test_fp32_is_fp32_on_a_gpu_too(precision: str, matrices: str, convolutions: bool) -> None:
    devices.use_precision(Precision(precision))
    assert torch.get_float32_matmul_precision() == matrices
    assert torch.backends.cudnn.allow_tf32 is convolutions
    devices.use_precision(Precision.FP32)
