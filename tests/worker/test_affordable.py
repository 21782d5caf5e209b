"""How much held-out text a job evaluates when it does not say."""

from __future__ import annotations

from typing import Any

import pytest

from photon.api.participation import EvaluationSpec
from photon.protocol.messages import JobForWorkers
from photon_worker.training.evaluate import EvaluationSettings


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


def test_a_process_evaluates_with_the_rows_that_it_trains_with(tiny: Any) -> None:
    given = job(tiny, {}, batchSize=256, microBatchSize=8)
    assert EvaluationSettings.of_job(given, processes=8, sources=1).batch_size == 1
    assert EvaluationSettings.of_job(given, processes=1, sources=1).batch_size == 8
