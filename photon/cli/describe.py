"""What a valid job amounts to, in a few lines: the size of the model, of a round, and of the whole."""

from __future__ import annotations

from typing import Any

from photon.api.job import FederatedTrainingJob
from photon.terminal import units


def parameters(config: dict[str, Any]) -> int | None:
    """Parameters of a decoder-only model with this Hugging Face config: an estimate that ignores norms and biases.

    None when the config lacks what the estimate needs.
    """
    try:
        hidden = int(config["hidden_size"])
        layers = int(config["num_hidden_layers"])
        vocabulary = int(config["vocab_size"])
        heads = int(config["num_attention_heads"])
    except (KeyError, TypeError, ValueError):
        return None
    head = int(config.get("head_dim") or hidden // heads)
    key_value = head * int(config.get("num_key_value_heads") or heads)
    attention = 2 * hidden * head * heads + 2 * hidden * key_value
    # Three matrices where the MLP is gated, as in the Llama family.
    mlp = 3 * hidden * int(config.get("intermediate_size") or 4 * hidden)
    embeddings = vocabulary * hidden * (1 if config.get("tie_word_embeddings") else 2)
    return embeddings + layers * (attention + mlp)


def describe(job: FederatedTrainingJob) -> list[str]:
    """Lines for ``photon validate``."""
    spec = job.spec
    config = spec.model.hf_config()
    count = parameters(config) if config else None
    shape = spec.model.preset.value if spec.model.preset else (config or {}).get("model_type", "from a checkpoint")
    size = f", about {units.amount(count)} parameters ({units.data_size(4 * count)} as fp32)" if count else ""
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
