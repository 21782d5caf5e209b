"""Names of the aggregator's Prometheus metrics: the one place where code, dashboards and alerts meet.

Labels: ``participant`` (at most as many as the job has), ``reason`` and ``phase`` (fixed sets of photon.protocol).
Counters get ``_total`` from the client library; the constants here are written as Prometheus shows them.
"""

from __future__ import annotations

from typing import Final

# The job.
ROUND: Final = "photon_round"
ROUNDS: Final = "photon_rounds"
COMMITTED_ROUNDS: Final = "photon_rounds_committed_total"
STAGE: Final = "photon_stage"
FINISHED: Final = "photon_job_finished"
FAILED: Final = "photon_job_failed"
TOKENS: Final = "photon_tokens_total"
SEQUENTIAL_STEPS: Final = "photon_sequential_steps"
ROUND_OPENED: Final = "photon_round_opened_timestamp_seconds"
ROUND_DEADLINE: Final = "photon_round_deadline_timestamp_seconds"
LAST_COMMIT: Final = "photon_last_commit_timestamp_seconds"
PHASE_SECONDS: Final = "photon_phase_seconds_total"
ROUND_SECONDS: Final = "photon_round_seconds"

# Who takes part.
PARTICIPANTS: Final = "photon_participants"
COHORT_SIZE: Final = "photon_cohort_size"
QUORUM: Final = "photon_quorum"
ACCEPTED_UPDATES: Final = "photon_updates_accepted"
REFUSED_UPDATES: Final = "photon_updates_refused_total"
PARTICIPANT_UP: Final = "photon_participant_up"
PARTICIPANT_STATE: Final = "photon_participant_state"
PARTICIPANT_STEP: Final = "photon_participant_step"
PARTICIPANT_LOSS: Final = "photon_participant_train_loss"
PARTICIPANT_LEARNING_RATE: Final = "photon_participant_learning_rate"
PARTICIPANT_TOKENS_PER_SECOND: Final = "photon_participant_tokens_per_second"
PARTICIPANT_MEMORY: Final = "photon_participant_memory_bytes"
PARTICIPANT_MFU: Final = "photon_participant_mfu_ratio"
PARTICIPANT_PERPLEXITY: Final = "photon_participant_validation_perplexity"
PARTICIPANT_BYTES_UP: Final = "photon_participant_bytes_up_total"
PARTICIPANT_BYTES_DOWN: Final = "photon_participant_bytes_down_total"
PARTICIPANT_UPDATE_NORM: Final = "photon_participant_update_norm"
PARTICIPANT_COSINE: Final = "photon_participant_cosine_to_mean"

# Learning, of the last commit.
TRAIN_LOSS: Final = "photon_train_loss"
VALIDATION_LOSS: Final = "photon_validation_loss"
VALIDATION_PERPLEXITY: Final = "photon_validation_perplexity"
EVALUATED_ROUND: Final = "photon_evaluated_round"
PSEUDO_GRADIENT_NORM: Final = "photon_pseudo_gradient_norm"
MODEL_NORM: Final = "photon_model_norm"
MOMENTUM_NORM: Final = "photon_momentum_norm"
CONSENSUS: Final = "photon_consensus"
PAIRWISE_COSINE: Final = "photon_mean_pairwise_cosine"
NOISE_SCALE: Final = "photon_gradient_noise_scale_tokens"

# The object store, as the aggregator meets it.
STORAGE_RETRIES: Final = "photon_storage_retries_total"
