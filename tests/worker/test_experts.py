"""A mixture of experts trains as plain transformers trains it when it is asked for the load-balancing loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from photon.api.training import LocalSpec
from photon_worker.data import Mixture
from photon_worker.training import model as models
from photon_worker.training.loop import Totals, Training, train
from photon_worker.training.schedule import learning_rate
from photon_worker.training.strategy import Single

CONFIG: dict[str, Any] = {
    "model_type": "mixtral",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 264,
    "max_position_embeddings": 64,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    # So large that it shows after a few steps.
    "router_aux_loss_coef": 0.5,
}
STEPS = 4
LOCAL = LocalSpec.model_validate(
    {
        "steps": STEPS,
        "batchSize": 4,
        "sequenceLength": 16,
        "precision": "fp32",
        "learningRate": {"max": 0.01, "warmupSteps": 1, "totalSteps": STEPS},
    }
)


class Batches:
    def __init__(self, data: Mixture) -> None:
        self.data = data

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> Any:
        return self.data.batch(seed=7, step=step, batch_size=4, sequence_length=16, start=start, stop=stop)


def ours(tiny: Any, data: Mixture, config: dict[str, Any]) -> tuple[np.ndarray, Any]:
    """Weights after training, and the round's figures."""
    made = models.config_from(config)
    strategy = Single(made, LOCAL.optimizer, device=torch.device("cpu"))
    strategy.write("weights", 0, tiny.flat(models.build(made, seed=7)))
    totals = Totals(strategy.device)
    train(
        strategy,
        Training(
            batches=Batches(data),
            local=LOCAL,
            seed=7,
            participant="a",
            first_step=0,
            until=STEPS,
        ),
        totals,
        after_step=lambda _: None,
    )
    return tiny.vector(strategy), totals.metrics()


def plain(tiny: Any, data: Mixture, config: dict[str, Any]) -> tuple[np.ndarray, float, float]:
    """The same by transformers' own loss: weights, mean loss without the addition, mean load-balancing loss."""
    model = models.build(models.config_from(config), seed=7)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    losses, balances = [], []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, LOCAL.learning_rate)
        rows = torch.from_numpy(Batches(data).batch(step))
        tokens, targets = rows[:, :-1], rows[:, 1:].contiguous()
        output = model(input_ids=tokens, shift_labels=targets, labels=tokens, output_router_logits=True)
        optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        balances.append(output.aux_loss.item())
        losses.append(output.loss.item() - config["router_aux_loss_coef"] * balances[-1])
    return tiny.flat(model), float(np.mean(losses)), float(np.mean(balances))


@pytest.mark.parametrize("asked", [False, True])
def test_the_load_balancing_loss_is_trained_on_and_reported_apart(tiny: Any, data: Mixture, asked: bool) -> None:
    config = CONFIG | {"output_router_logits": asked}
    weights, loss, balance = plain(tiny, data, CONFIG)
    found, metrics = ours(tiny, data, config)
    np.testing.assert_allclose(found, weights, atol=5e-6)
    assert metrics.loss_mean == pytest.approx(loss, abs=1e-5)
    assert metrics.balance_loss_mean == pytest.approx(balance, abs=1e-5)
    assert balance == pytest.approx(2.0, abs=0.1), "of two experts a token: 2 where all are used alike"


def test_a_coefficient_of_zero_turns_it_off(tiny: Any, data: Mixture) -> None:
    found, metrics = ours(tiny, data, CONFIG | {"router_aux_loss_coef": 0.0})
    assert metrics.balance_loss_mean is None
    assert np.abs(found - ours(tiny, data, CONFIG)[0]).max() > 1e-3


def test_a_model_without_experts_says_nothing_of_it(tiny: Any, data: Mixture) -> None:
    _, metrics = ours(tiny, data, tiny.config)
    assert metrics.balance_loss_mean is None
    assert "balanceLossMean" not in metrics.model_dump(by_alias=True)
