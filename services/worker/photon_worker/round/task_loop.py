"""From the first task to the end of the job: each is done, or dropped when its round went on, or asked for again."""

from __future__ import annotations

import logging
import time
from typing import Final

from photon.protocol.messages import ErrorReason, EvaluateTask, FinishTask
from photon.store.errors import StorageFull, StoreError
from photon.telemetry.traces import Attributes
from photon_worker.data import Mixture
from photon_worker.data.sources import check_tokenizer
from photon_worker.lifecycle.errors import Cancelled, JobFailed, RequestRefused
from photon_worker.round.client import AggregatorClient
from photon_worker.round.progress import ProgressSender, TaskProgress
from photon_worker.round.trainer import RoundTrainer

logger = logging.getLogger(__name__)

# A task whose transfers fail is asked for again (its URLs may have expired), so often in a row.
TASK_ATTEMPTS: Final = 5


def do_tasks(client: AggregatorClient, trainer: RoundTrainer, data: Mixture) -> None:
    """Do task after task.

    Raises:
        JobFailed: The aggregator ended the job as failed.
        Misconfigured: The data does not fit the model.
        WorkerError, StoreError: As those say.
    """
    done: str | None = None
    failures = 0
    while True:
        task = client.next_task(done=done)
        if isinstance(task, FinishTask):
            if task.failed:
                raise JobFailed(f"the job failed: {task.reason}: {task.message}".rstrip(": "))
            logger.info("the job has ended: %s %s", task.reason, task.message)
            return
        progress = TaskProgress(task.id, traces=client.traces)
        about: Attributes = {"photon.participant": trainer.name, "photon.round": task.round}
        try:
            with (
                client.traces.span(f"task {task.kind}", client.task_context, about),
                ProgressSender(client, progress),
            ):
                check_tokenizer(task.model, data)
                if isinstance(task, EvaluateTask):
                    trainer.evaluate(task, progress)
                else:
                    trainer.train(task, progress)
        except Cancelled:
            logger.warning("%s: the round ended without this participant's update", task.id)
        except RequestRefused as error:
            if error.answer is not ErrorReason.UNKNOWN_ROUND:
                raise
            logger.warning("%s: the aggregator no longer knows the round", task.id)
        except StoreError as error:
            failures += 1
            if failures == TASK_ATTEMPTS or isinstance(error, StorageFull):
                raise
            logger.warning("%s: %s; asking for the task again", task.id, error)
            time.sleep(float(failures))
            continue
        failures = 0
        done = task.id
