"""Figures that are shown in several places are one computation."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from photon.api.presets import PRESETS, parameters_of
from photon.api.validate import load_job
from photon.cli.describe import describe
from photon.protocol.figures import LEARNING, bits_per_byte, mean_loss, perplexity, pooled_perplexity
from photon.protocol.records import HeldOutResult, LearningMetrics
from photon.terminal import units

FIRST = Path(__file__).parents[2] / "examples" / "first.yaml"


def result(loss: float, tokens: int = 100, size: int = 400) -> HeldOutResult:
    return HeldOutResult(loss_sum=loss * tokens, tokens=tokens, bytes=size)


def test_a_diverged_run_has_one_perplexity() -> None:
    # Once, summary.json held losses at 50 nats and status at 700.
    assert pooled_perplexity([result(60.0)]) == perplexity(60.0) == pytest.approx(1.142e26, rel=1e-3)
    assert math.isfinite(perplexity(1e6))


def test_results_are_pooled_by_their_tokens() -> None:
    assert mean_loss([result(1.0, 300), result(3.0, 100)]) == 1.5
    assert mean_loss([]) is pooled_perplexity([]) is bits_per_byte([]) is None
    assert bits_per_byte([result(math.log(2), 100, 400)]) == 0.25


def test_every_figure_of_learning_is_shown_everywhere_once() -> None:
    for names in ([f.field for f in LEARNING], [f.curve for f in LEARNING], [f.tracker for f in LEARNING]):
        assert len(set(names)) == len(LEARNING)
    assert {figure.field for figure in LEARNING} <= set(LearningMetrics.model_fields)
    assert len({str(figure.metric) for figure in LEARNING}) == len(LEARNING)


def test_validate_shows_the_parameters_that_the_model_has() -> None:
    count = parameters_of(PRESETS["llama-1m"])
    assert count == 844_928
    assert f"about {units.amount(count)} parameters" in describe(load_job(FIRST))[1]
