"""Which global models stay in the bucket, as spec.storage.retention says. Pure; actions/retain.py deletes."""

from __future__ import annotations

from photon.api.placement import RetentionSpec


def is_past(spec: RetentionSpec, round_number: int, last: int) -> bool:
    """Whether the global model and the updates of a round are older than what is kept."""
    return spec.keep_last_rounds is not None and round_number <= last - spec.keep_last_rounds


def keeps_model(spec: RetentionSpec, round_number: int, last: int) -> bool:
    """Whether the global model of a round stays when ``last`` is the last round."""
    every = spec.keep_every_rounds
    return not is_past(spec, round_number, last) or (every is not None and round_number % every == 0)
