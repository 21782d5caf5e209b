"""The training loop: equal to plain PyTorch, exact on resume, indifferent to how a batch is cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from photon.api.training import OuterSpec
from photon_aggregator.merge.outer import outer_step
from photon_worker.data import Mixture
from photon_worker.training import model as models
from photon_worker.training.loop import StepReport, Totals, Training, train
from photon_worker.training.schedule import learning_rate
from photon_worker.training.strategy import VECTORS, Single


def run(tiny: Any, data: Mixture, learning: Any, strategy: Single, *, until: int, **more: Any) -> Totals:
    """Train with the loop; returns the sums."""
    totals = more.pop("totals", None) or Totals(strategy.device)
    train(
        strategy,
        Training(
            batches=tiny.batches(data, learning),
            local=learning.local,
            seed=learning.model.seed,
            participant="a",
            first_step=more.pop("first_step", 0),
            until=until,
        ),
        totals,
        after_step=more.pop("after_step", lambda _: None),
    )
    return totals


def plain_training(tiny: Any, data: Mixture, learning: Any, *, steps: int) -> tuple[Any, list[float]]:
    """The same training written with nothing of Photon's worker but the sampler and the schedule."""
    model = tiny.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, learning.local.learning_rate)
        rows = torch.from_numpy(tiny.batches(data, learning).batch(step))
        logits = model(input_ids=rows[:, :-1]).logits
        loss = F.cross_entropy(logits.reshape(-1, tiny.vocabulary), rows[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return model, losses


def test_the_loop_equals_plain_training(tiny: Any, data: Mixture) -> None:
    learning = tiny.learning(steps=8)
    strategy = tiny.strategy(learning)
    totals = run(tiny, data, learning, strategy, until=8)
    model, losses = plain_training(tiny, data, learning, steps=8)
    # Adam divides by small second moments, so differences of single bits in a gradient grow to some 1e-6.
    np.testing.assert_allclose(tiny.vector(strategy), tiny.flat(model), atol=2e-6)
    assert totals.metrics().loss_mean == pytest.approx(np.mean(losses), abs=1e-6)
    assert totals.metrics().loss_last == pytest.approx(losses[-1], abs=1e-6)


def test_one_participant_one_local_step_outer_rate_one_is_plain_training(tiny: Any, data: Mixture) -> None:
    """K = 1, tau = 1, FedAvg with rate 1: six rounds through loop and outer step equal six plain steps."""
    learning = tiny.learning(steps=1, learningRate={"max": 0.01, "warmupSteps": 2, "totalSteps": 6})
    strategy = tiny.strategy(learning)
    theta = tiny.vector(strategy)
    for round_number in range(1, 7):
        strategy.write("weights", 0, theta)
        run(tiny, data, learning, strategy, until=1, first_step=round_number - 1)
        update = theta - tiny.vector(strategy)
        outer_step(OuterSpec(), theta=theta, gradient=update, state={}, step=round_number)
    model, _ = plain_training(tiny, data, learning, steps=6)
    np.testing.assert_allclose(theta, tiny.flat(model), atol=2e-6)
    assert np.abs(theta - tiny.flat(tiny.model())).max() > 1e-2, "nothing was trained"


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_resumed_equals_uninterrupted_bit_for_bit(tiny: Any, data: Mixture, cut: int) -> None:
    learning = tiny.learning(steps=6)
    whole = tiny.strategy(learning)
    expected = run(tiny, data, learning, whole, until=6)

    first = tiny.strategy(learning)
    before = run(tiny, data, learning, first, until=cut)
    second = tiny.strategy(learning)  # another process: fresh model, state by the flat vectors
    second.reset_optimizer(steps=first.optimizer_steps)
    for name in VECTORS:
        second.write(name, 0, tiny.vector(first, name))
    totals = Totals(second.device, steps=before.steps, values=before.values())
    run(tiny, data, learning, second, until=6, totals=totals)

    for name in VECTORS:
        np.testing.assert_array_equal(tiny.vector(second, name), tiny.vector(whole, name))
    assert totals.values() == expected.values()
    assert second.optimizer_steps == 6


def test_dropout_is_the_same_after_a_resume(tiny: Any, data: Mixture) -> None:
    """The random numbers of a step come from the step, not from how many were drawn before."""
    learning = tiny.learning(steps=4)
    results = []
    for noise in (0, 5):
        strategy = tiny.strategy(learning)
        strategy.module.model.layers[0].register_forward_hook(lambda *a: F.dropout(a[2], 0.3))
        torch.manual_seed(noise)
        run(tiny, data, learning, strategy, until=4)
        results.append(tiny.vector(strategy))
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("micro", [1, 2])
def test_accumulated_micro_batches_equal_the_whole_batch(tiny: Any, data: Mixture, micro: int) -> None:
    calm = {"eps": 1e-3}  # else Adam blows single bits of tiny gradients up
    whole, parts = (tiny.learning(steps=3, optimizer=calm, microBatchSize=size) for size in (4, micro))
    one, other = tiny.strategy(whole), tiny.strategy(parts)
    totals = [run(tiny, data, learning, s, until=3) for learning, s in ((whole, one), (parts, other))]
    np.testing.assert_allclose(tiny.vector(one), tiny.vector(other), atol=2e-6)
    assert totals[0].metrics().loss_mean == pytest.approx(totals[1].metrics().loss_mean, abs=1e-5)
    assert totals[0].metrics().grad_norm_mean == pytest.approx(totals[1].metrics().grad_norm_mean, rel=1e-4)


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        ({}, ["model.embed_tokens.weight"]),  # the head is tied to it
        ({"tie_word_embeddings": False}, ["model.embed_tokens.weight"]),
        (
            {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2},
            ["transformer.wte.weight", "transformer.wpe.weight"],
        ),
    ],
)
def test_weight_decay_leaves_vectors_and_embeddings_alone(
    tiny: Any, data: Mixture, config: dict[str, Any], kept: list[str]
) -> None:
    """After one step from the same weights, what does not decay is the same bit for bit, and the rest is not."""
    made = models.config_from(tiny.config | config)
    weights = tiny.flat(models.build(made, seed=7))
    after = []
    for decay in (0.0, 0.5):
        learning = tiny.learning(steps=1, optimizer={"weightDecay": decay})
        strategy = Single(made, learning.local.optimizer, device=torch.device("cpu"))
        strategy.write("weights", 0, weights)
        run(tiny, data, learning, strategy, until=1)
        after.append(tiny.vector(strategy))
    for entry in strategy.header.entries:
        plain, decayed = (vector[entry.start // 4 : entry.stop // 4] for vector in after)
        alone = len(entry.shape) < 2 or entry.name in kept
        assert np.array_equal(plain, decayed) == alone, entry.name


def test_gradients_are_clipped_and_the_clipped_are_counted(tiny: Any, data: Mixture) -> None:
    free = tiny.learning(steps=2, optimizer={"clipNorm": None, "eps": 1.0})
    tight = tiny.learning(steps=2, optimizer={"clipNorm": 1e-3, "eps": 1.0})
    moved = []
    for learning in (free, tight):
        strategy = tiny.strategy(learning)
        totals = run(tiny, data, learning, strategy, until=2)
        assert totals.metrics().clipped_fraction == (1.0 if learning is tight else 0.0)
        assert totals.metrics().grad_norm_max >= totals.metrics().grad_norm_mean > 0.1
        moved.append(np.abs(tiny.vector(strategy) - tiny.flat(tiny.model())).sum())
    assert moved[1] < moved[0] / 100


def test_bf16_keeps_fp32_weights_and_learns(tiny: Any, data: Mixture) -> None:
    learning = tiny.learning(steps=30, precision="bf16", learningRate={"max": 0.01, "warmupSteps": 0})
    strategy = tiny.strategy(learning)
    losses: list[float | None] = []
    run(tiny, data, learning, strategy, until=30, after_step=lambda report: losses.append(report.loss))
    weights = tiny.vector(strategy)
    assert (weights.view(np.uint32) & 0xFFFF).any(), "the weights were rounded to bf16"
    assert losses[0] is not None
    assert losses[-1] is not None
    assert losses[-1] < losses[0] - 1.0


def test_each_step_is_reported_with_its_rate(tiny: Any, data: Mixture) -> None:
    learning = tiny.learning(steps=3)
    reports: list[StepReport] = []
    run(tiny, data, learning, tiny.strategy(learning), until=3, first_step=5, after_step=reports.append)
    assert [r.local_step for r in reports] == [1, 2, 3]
    rates = [learning_rate(step, learning.local.learning_rate) for step in (5, 6, 7)]
    assert [r.learning_rate for r in reports] == rates
    assert reports[0].tokens_per_second is None
    assert reports[-1].tokens_per_second is not None
