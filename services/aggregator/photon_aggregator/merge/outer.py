"""The outer optimizers: how the mean update moves the global model.

The mean update g is a pseudo-gradient (global - local), so every one of them moves theta *against* g. All are written
as elementwise fp32 operations that IEEE 754 defines exactly (no dot products, no fused multiply-add): the result is
the same bit for bit however the flat vector is cut into blocks, and on every machine. lr, mu, b1, b2, tau are
outer.learningRate, momentum, beta1, beta2 and eps; t counts outer steps from 1.

    FedAvg      theta <- theta - lr g                                                      (McMahan et al. 2017; lr 1)
    Nesterov    m <- mu m + g;                    theta <- theta - lr (g + mu m)           m_0 = 0
                (DiLoCo, arXiv 2311.08105; torch.optim.SGD(nesterov=True), dampening 0)
    FedMom      v' <- theta - lr g;               theta <- v' + mu (v' - v);  v <- v'      v_0 = theta_0
                (Huo et al., arXiv 2002.02090, algorithm 3: the velocity is a model, it starts at theta, not at 0)
    FedAdam     m <- b1 m + (1-b1) g;  s <- b2 s + (1-b2) g^2                              m_0 = s_0 = 0
    FedYogi     m <- b1 m + (1-b1) g;  s <- s - (1-b2) g^2 sign(s - g^2)                   m_0 = s_0 = 0
                both: theta <- theta - lr/(1-b1^t) m / (sqrt(s/(1-b2^t)) + tau)
    FedAdagrad  s <- s + g^2;                     theta <- theta - lr g / (sqrt(s) + tau)  s_0 = tau^2

The last three are of Reddi et al., arXiv 2003.00295, algorithm 2. That algorithm has no bias correction and leaves s_0
>= tau^2 open. Here FedAdam and FedYogi are corrected, from 0, as in Adam (so FedAdam is torch.optim.Adam): a job has
tens to hundreds of outer steps, and with b2 = 0.99 the uncorrected start would last all of them. FedAdagrad needs no
correction and starts from tau^2 (so it is torch.optim.Adagrad with initial_accumulator_value = tau^2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from photon.api.training import OuterSpec, OuterType

Float32 = npt.NDArray[np.float32]

MOMENTUM = "momentum"
VELOCITY = "velocity"
SECOND_MOMENT = "second_moment"


def state_names(spec: OuterSpec) -> tuple[str, ...]:
    """Names of the flat vectors that ``spec`` keeps between rounds; each as long as the model."""
    match spec.type:
        case OuterType.FEDAVG:
            return ()
        case OuterType.NESTEROV:
            return (MOMENTUM,)
        case OuterType.FEDMOM:
            return (VELOCITY,)
        case OuterType.FEDADAM | OuterType.FEDYOGI:
            return (MOMENTUM, SECOND_MOMENT)
        case OuterType.FEDADAGRAD:
            return (SECOND_MOMENT,)


def initial_state(spec: OuterSpec, theta: Float32) -> dict[str, Float32]:
    """The state before the first outer step for the block ``theta`` (fp32 [n]) of the initial model."""
    state: dict[str, Float32] = {}
    for name in state_names(spec):
        if name == VELOCITY:
            state[name] = theta.copy()
        elif spec.type is OuterType.FEDADAGRAD:
            state[name] = np.full_like(theta, np.float32(spec.eps) * np.float32(spec.eps))
        else:
            state[name] = np.zeros_like(theta)
    return state


def outer_step(spec: OuterSpec, *, theta: Float32, gradient: Float32, state: Mapping[str, Float32], step: int) -> None:
    """One outer step on a block of the flat vector, in place.

    Args:
        theta: fp32 [n], the global model; updated.
        gradient: fp32 [n], the mean update; used as scratch, undefined afterwards.
        state: fp32 [n] for each of ``state_names(spec)``; updated.
        step: This outer step's number, from 1 (bias correction).
    """
    if step < 1:
        raise ValueError(f"outer steps count from 1, not {step}")
    lr = np.float32(spec.learning_rate)
    match spec.type:
        case OuterType.FEDAVG:
            _descend(theta, gradient, lr)
        case OuterType.NESTEROV:
            momentum = state[MOMENTUM]
            momentum *= np.float32(spec.momentum)
            momentum += gradient
            gradient += momentum * np.float32(spec.momentum)
            _descend(theta, gradient, lr)
        case OuterType.FEDMOM:
            velocity = state[VELOCITY]
            _descend(theta, gradient, lr)
            np.subtract(theta, velocity, out=gradient)
            velocity[:] = theta
            gradient *= np.float32(spec.momentum)
            theta += gradient
        case OuterType.FEDADAM | OuterType.FEDYOGI:
            _adaptive(spec, theta, gradient, state[MOMENTUM], state[SECOND_MOMENT], step)
        case OuterType.FEDADAGRAD:
            second = state[SECOND_MOMENT]
            second += gradient * gradient
            denominator = np.sqrt(second)
            denominator += np.float32(spec.eps)
            gradient /= denominator
            _descend(theta, gradient, lr)


def _descend(theta: Float32, direction: Float32, lr: np.float32) -> None:
    """theta - lr direction; ``direction`` is scaled in place."""
    if lr != 1:
        direction *= lr
    theta -= direction


def _adaptive(
    spec: OuterSpec, theta: Float32, gradient: Float32, momentum: Float32, second: Float32, step: int
) -> None:
    momentum *= np.float32(spec.beta1)
    momentum += gradient * np.float32(1 - spec.beta1)
    gradient *= gradient  # from here on g^2
    if spec.type is OuterType.FEDADAM:
        second *= np.float32(spec.beta2)
        gradient *= np.float32(1 - spec.beta2)
        second += gradient
    else:
        sign = np.sign(second - gradient)
        gradient *= np.float32(1 - spec.beta2)
        gradient *= sign
        second -= gradient
    denominator = np.sqrt(second)
    denominator /= np.float32(math.sqrt(1 - spec.beta2**step))
    denominator += np.float32(spec.eps)
    np.divide(momentum, denominator, out=denominator)
    _descend(theta, denominator, np.float32(spec.learning_rate / (1 - spec.beta1**step)))
