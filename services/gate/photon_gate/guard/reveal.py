"""What the hub may see of a worker's reports. Pure.

Always: phase, step and bytes, the figures of an update's manifest, and the sums of an evaluation. Never: names of the
institution's data folders, and losses before an update is handed in. The rest is for the policy to say.
"""

from __future__ import annotations

from photon.policy.document import Reveal
from photon.protocol.messages import Progress, UpdateSubmission
from photon.protocol.records import Evaluation


def of_progress(reveal: Reveal, progress: Progress) -> Progress:
    """What leaves of a report."""
    return Progress(
        task_id=progress.task_id,
        phase=progress.phase,
        step=progress.step,
        bytes_up=progress.bytes_up,
        bytes_down=progress.bytes_down,
        tokens_per_second=progress.tokens_per_second if reveal.tokens_per_second else None,
        # Times tell the speed.
        seconds=progress.seconds if reveal.tokens_per_second else {},
        memory_bytes=progress.memory_bytes if reveal.memory else None,
        mfu=progress.mfu if reveal.mfu else None,
        retries=progress.retries if reveal.retries else {},
    )


def of_submission(reveal: Reveal, submission: UpdateSubmission) -> UpdateSubmission:
    """The manifest is signed as it is; the report beside it is cut."""
    if submission.progress is None:
        return submission
    return UpdateSubmission(manifest=submission.manifest, progress=of_progress(reveal, submission.progress))


def of_evaluation(evaluation: Evaluation) -> Evaluation:
    """The sums over all held-out text, without those of each data folder."""
    return evaluation.model_copy(update={"result": evaluation.result.model_copy(update={"sources": {}})})
