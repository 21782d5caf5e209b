"""How much held-out text a job evaluates when it does not say."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from photon.api.participation import EvaluationSpec
from photon.api.training import Precision
from photon.protocol.messages import JobForWorkers
from photon_worker.data import Mixture
from photon_worker.training.evaluate import EvaluationSettings, held_out_loss


def job(tiny: Any, evaluation: dict[str, Any], **local: Any) -> JobForWorkers:
    return JobForWorkers(
        name="job",
        participant="north",
        learning=tiny.learning(**local),
        evaluation=EvaluationSpec.model_validate(evaluation),
    )


@pytest.mark.parametrize(("every", "rounds"), [(1, 1), (4, 4)])
def test_by_default_a_tenth_of_the_training_since_the_last_evaluation(tiny: Any, every: int, rounds: int) -> None:
    given = job(tiny, {"everyRounds": every}, steps=16, batchSize=4, sequenceLength=32)
    found = EvaluationSettings.of_job(given, processes=1, sources=1)
    trained = rounds * 16 * 4 * 32
    assert found.max_tokens is not None
    # Forward alone is a third of a training step.
    assert found.max_tokens / 3 <= trained / 10


def test_folders_share_it_and_none_is_left_out(tiny: Any) -> None:
    given = job(tiny, {}, steps=16, batchSize=4, sequenceLength=32)
    one, four, many = (EvaluationSettings.of_job(given, processes=1, sources=n).max_tokens for n in (1, 4, 1000))
    assert one is not None
    assert four == one // 4
    assert many == 32, "one window at least"


def test_what_the_job_says_holds(tiny: Any) -> None:
    found = EvaluationSettings.of_job(job(tiny, {"maxTokens": 77, "batchSize": 5}), processes=4, sources=3)
    assert (found.max_tokens, found.batch_size) == (77, 5)


def test_of_the_logits_one_row_at_a_time_is_fp32(data: Mixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 8 rows of 2,048 tokens and 50,368 entries they would be 3.3 GB."""
    real, shapes = F.cross_entropy, []

    def watched(logits: torch.Tensor, target: torch.Tensor, **given: Any) -> torch.Tensor:
        shapes.append(tuple(logits.shape))
        return real(logits, target, **given)

    monkeypatch.setattr(F, "cross_entropy", watched)
    settings = EvaluationSettings(sequence_length=32, batch_size=8, max_tokens=32 * 12, precision=Precision.BF16)

    def forward(tokens: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*tokens.shape, 300, dtype=torch.bfloat16)

    held_out = data.sources["a"].held_out
    found = held_out_loss(forward, held_out, settings, device=torch.device("cpu"))
    assert found.tokens == 32 * 12
    assert found.loss_sum == pytest.approx(found.tokens * math.log(300), rel=1e-6)
    assert shapes == [(32, 300)] * 12


def test_a_process_evaluates_with_the_rows_that_it_trains_with(tiny: Any) -> None:
    given = job(tiny, {}, batchSize=256, microBatchSize=8)
    assert EvaluationSettings.of_job(given, processes=8, sources=1).batch_size == 1
    assert EvaluationSettings.of_job(given, processes=1, sources=1).batch_size == 8
