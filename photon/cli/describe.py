"""What a valid job amounts to, in a few lines: the size of the model, of a round, and of the whole."""

from __future__ import annotations

from photon.api.job import FederatedTrainingJob
from photon.api.presets import most_parameters_of, parameters_of
from photon.terminal import units


def describe(job: FederatedTrainingJob) -> list[str]:
    """Lines for ``photon validate``."""
    spec = job.spec
    config = spec.model.hf_config()
    exact = parameters_of(config) if config else None
    count = exact if exact is not None or config is None else most_parameters_of(config)
    shape = spec.model.preset.value if spec.model.preset else (config or {}).get("model_type", "from a checkpoint")
    about = "about" if exact else "at most"
    size = f", {about} {units.amount(count)} parameters ({units.data_size(4 * count)} as fp32)" if count else ""
    step_tokens = spec.local.batch_size * spec.local.sequence_length
    round_tokens = step_tokens * spec.local.steps * spec.cohort_size
    here = sum(p.worker is not None for p in spec.participants)
    elsewhere = len(spec.participants) - here
    people = f"{here} here" + (f", {elsewhere} elsewhere" if elsewhere else "")
    return [
        f"ok: job {job.metadata.name}",
        f"model         {shape}{size}",
        f"participants  {len(spec.participants)} ({people}); {spec.cohort_size} a round, quorum {spec.quorum}",
        f"rounds        {spec.rounds} x {spec.local.steps} local steps of {spec.local.batch_size} x "
        f"{spec.local.sequence_length} tokens",
        f"tokens        {units.amount(round_tokens)} a round, {units.amount(round_tokens * spec.rounds)} in all",
        f"outer         {spec.outer.type.value}, learning rate {spec.outer.learning_rate:g}; "
        f"updates as {spec.exchange.codec.value}",
    ]
