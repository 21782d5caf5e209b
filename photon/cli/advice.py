"""Settings that are valid and known to end badly: said by ``photon validate``, and nothing is refused for them."""

from __future__ import annotations

from photon.api.job import FederatedTrainingJob
from photon.api.training import OuterType, outer_learning_rate

ADAPTIVE = (OuterType.FEDADAM, OuterType.FEDYOGI, OuterType.FEDADAGRAD)
# Weights of a new model are about 0.02, and an adaptive step moves each by about the learning rate.
LARGEST_ADAPTIVE_RATE = 0.01
# Nesterov's momentum makes a lasting direction this many times longer than the mean update.
LARGEST_NESTEROV_GAIN = 10.0


def advice(job: FederatedTrainingJob) -> list[str]:
    """Warnings, a line each; empty when there is nothing to say."""
    outer = job.spec.outer
    kind, rate = outer.type, outer.learning_rate
    usual = outer_learning_rate(kind)
    if kind in ADAPTIVE and rate > LARGEST_ADAPTIVE_RATE:
        return [
            f"warning       outer.learningRate {rate:g} moves every weight by about {rate:g} in the first round of "
            f"{kind.value}, and weights are about 0.02: this destroys the model; {usual:g} is the default"
        ]
    if kind is OuterType.NESTEROV and rate / (1 - outer.momentum) >= LARGEST_NESTEROV_GAIN:
        return [
            f"warning       outer.learningRate {rate:g} with momentum {outer.momentum:g} is known to diverge with "
            f"more than a few local steps: lower one of them; {usual:g} and 0.9 are the defaults"
        ]
    return []
