"""Golden traces of the outer optimisers: against steps computed by hand, and against torch.optim."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from photon.api.training import OuterSpec, OuterType
from photon_aggregator.merge.outer import initial_state, outer_step, state_names


def trace(spec: OuterSpec, start: float, gradients: list[float]) -> list[float]:
    """theta after each step, on a model of one parameter."""
    theta = np.array([start], np.float32)
    state = initial_state(spec, theta)
    thetas = []
    for step, gradient in enumerate(gradients, 1):
        outer_step(spec, theta=theta, gradient=np.array([gradient], np.float32), state=state, step=step)
        thetas.append(float(theta[0]))
    return thetas


# Each expected value was worked out by hand from the formulas in the module's docstring.
HAND = [
    # 1 - 0.5*1 = 0.5; 0.5 - 0.5*(-2) = 1.5
    (OuterSpec(type=OuterType.FEDAVG, learning_rate=0.5), [1.0, -2.0], [0.5, 1.5]),
    # m=1: 1 - 0.5*(1+0.5*1) = 0.25; m=0.5-2=-1.5: 0.25 - 0.5*(-2-0.75) = 1.625
    (OuterSpec(type=OuterType.NESTEROV, learning_rate=0.5, momentum=0.5), [1.0, -2.0], [0.25, 1.625]),
    # v'=0.5: 0.5 + 0.5*(0.5-1) = 0.25; v'=0.25+1=1.25: 1.25 + 0.5*(1.25-0.5) = 1.625
    (OuterSpec(type=OuterType.FEDMOM, learning_rate=0.5, momentum=0.5), [1.0, -2.0], [0.25, 1.625]),
    # m=0.5, s=0.5; m^=1, s^=1: 1 - 0.5*1/(1+1) = 0.75
    # m=0.25-1=-0.75, s=0.25+2=2.25; m^=-0.75/0.75=-1, s^=2.25/0.75=3: 0.75 + 0.5/(sqrt(3)+1) = 0.9330127
    (
        OuterSpec(type=OuterType.FEDADAM, learning_rate=0.5, beta1=0.5, beta2=0.5, eps=1.0),
        [1.0, -2.0],
        [0.75, 0.9330127],
    ),
    # as Adam at first (0 - 0.5*1*sign(0-1) = 0.5); s = 0.5 - 0.5*4*sign(0.5-4) = 2.5, s^=2.5/0.75=3.3333333
    # 0.75 + 0.5/(1.8257419+1) = 0.9269445
    (
        OuterSpec(type=OuterType.FEDYOGI, learning_rate=0.5, beta1=0.5, beta2=0.5, eps=1.0),
        [1.0, -2.0],
        [0.75, 0.9269445],
    ),
    # s=1+1=2: 1 - 0.5/(1.4142136+1) = 0.7928932; s=2+4=6: 0.7928932 + 1/(2.4494897+1) = 1.0827913
    (OuterSpec(type=OuterType.FEDADAGRAD, learning_rate=0.5, eps=1.0), [1.0, -2.0], [0.7928932, 1.0827913]),
]


@pytest.mark.parametrize(("spec", "gradients", "expected"), HAND, ids=lambda value: getattr(value, "type", None))
def test_steps_are_those_computed_by_hand(spec: OuterSpec, gradients: list[float], expected: list[float]) -> None:
    np.testing.assert_allclose(trace(spec, 1.0, gradients), expected, rtol=1e-6)


TORCH: list[tuple[OuterSpec, Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]]] = [
    (OuterSpec(type=OuterType.FEDAVG, learning_rate=0.7), lambda p: torch.optim.SGD(p, lr=0.7)),
    (
        OuterSpec(type=OuterType.NESTEROV, learning_rate=0.7, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.7, momentum=0.9, nesterov=True),
    ),
    (
        OuterSpec(type=OuterType.FEDADAM, learning_rate=0.1, beta1=0.9, beta2=0.99, eps=1e-3),
        lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.9, 0.99), eps=1e-3),
    ),
    (
        OuterSpec(type=OuterType.FEDADAGRAD, learning_rate=0.1, eps=1e-3),
        lambda p: torch.optim.Adagrad(p, lr=0.1, eps=1e-3, initial_accumulator_value=1e-6),
    ),
]


@pytest.mark.parametrize(("spec", "optimizer"), TORCH, ids=lambda value: getattr(value, "type", None))
def test_traces_are_those_of_torch(
    spec: OuterSpec, optimizer: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]
) -> None:
    rng = np.random.default_rng(1)
    theta = rng.standard_normal(500).astype(np.float32)
    parameter = torch.nn.Parameter(torch.from_numpy(theta.copy()))
    reference = optimizer([parameter])
    state = initial_state(spec, theta)
    for step in range(1, 21):
        gradient = (rng.standard_normal(500) * 0.1).astype(np.float32)
        parameter.grad = torch.from_numpy(gradient.copy())
        reference.step()
        outer_step(spec, theta=theta, gradient=gradient, state=state, step=step)
        np.testing.assert_allclose(theta, parameter.detach().numpy(), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("kind", list(OuterType))
def test_theta_moves_against_the_pseudo_gradient(kind: OuterType) -> None:
    spec = OuterSpec(type=kind, learning_rate=0.1)
    down, up = trace(spec, 1.0, [1.0]), trace(spec, 1.0, [-1.0])
    assert down[0] < 1.0 < up[0]


def test_fedmom_starts_its_velocity_at_the_model() -> None:
    # With a velocity from 0 the first step would throw theta by mu * theta.
    spec = OuterSpec(type=OuterType.FEDMOM, learning_rate=1.0, momentum=0.9)
    assert trace(spec, 100.0, [0.0]) == [100.0]


def test_fedmom_with_a_constant_pull_is_nesterov() -> None:
    # v' - v is the momentum buffer of Nesterov's method, so the two trajectories are one.
    gradients = list(np.random.default_rng(3).standard_normal(10))
    mom = trace(OuterSpec(type=OuterType.FEDMOM, learning_rate=0.3, momentum=0.8), 1.0, gradients)
    nesterov = trace(OuterSpec(type=OuterType.NESTEROV, learning_rate=0.3, momentum=0.8), 1.0, gradients)
    np.testing.assert_allclose(mom, nesterov, rtol=1e-5)


def test_yogi_is_adam_while_the_second_moment_grows() -> None:
    adam = trace(OuterSpec(type=OuterType.FEDADAM), 1.0, [0.5])
    yogi = trace(OuterSpec(type=OuterType.FEDYOGI), 1.0, [0.5])
    assert adam == yogi


@pytest.mark.parametrize("kind", list(OuterType))
def test_bits_do_not_depend_on_how_the_vector_is_cut(kind: OuterType) -> None:
    spec = OuterSpec(type=kind, learning_rate=0.3)
    rng = np.random.default_rng(2)
    theta = rng.standard_normal(1001).astype(np.float32)
    gradients = rng.standard_normal((5, 1001)).astype(np.float32)
    results = []
    for cuts in ([0, 1001], [0, 1, 16, 17, 500, 1001], [*list(range(0, 1001, 7)), 1001]):
        whole = theta.copy()
        state = initial_state(spec, whole)
        for step, gradient in enumerate(gradients, 1):
            for start, stop in itertools.pairwise(cuts):
                outer_step(
                    spec,
                    theta=whole[start:stop],
                    gradient=gradient[start:stop].copy(),
                    state={name: value[start:stop] for name, value in state.items()},
                    step=step,
                )
        results.append(whole.tobytes() + b"".join(state[name].tobytes() for name in state_names(spec)))
    assert len(set(results)) == 1


def test_steps_count_from_one() -> None:
    one = np.ones(1, np.float32)
    with pytest.raises(ValueError, match="count from 1"):
        outer_step(OuterSpec(), theta=one, gradient=one.copy(), state={}, step=0)
