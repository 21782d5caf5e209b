"""One participant's rounds: from a task to an accepted update, and everything that must survive a kill in between.

What the bits of an update depend on is the global model, the plan and the optimizer's state at the start of the round.
The first two come from the bucket; the third is the state after this participant's last finished round, which is on
disk before the update is submitted, or a fresh one where the job was rolled back since. So a worker may be killed
anywhere and its round comes out the same.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from photon.api.training import InnerState
from photon.protocol.canonical import digest
from photon.protocol.messages import EvaluateTask, JobForWorkers, TrainTask, UpdateReply
from photon.protocol.ranges import MAX_LOSS
from photon.protocol.records import Evaluation, HeldOutResult, Part, UpdateManifest, UpdateMetrics
from photon.store import keys
from photon.store.source import FileSource
from photon_worker.data import Mixture
from photon_worker.data.batches import JobBatches
from photon_worker.distributed.control import ProcessControl
from photon_worker.lifecycle.errors import Misconfigured, WorkerError
from photon_worker.lifecycle.signals import Interrupts
from photon_worker.round.checkpoint import Checkpoints, LocalState, layout_digest
from photon_worker.round.client import AggregatorClient
from photon_worker.round.global_models import GlobalModels
from photon_worker.round.journal import Journal
from photon_worker.round.progress import TaskProgress
from photon_worker.round.update import PartSender, encoded_parts, submit
from photon_worker.training import device as devices
from photon_worker.training import model as models
from photon_worker.training.evaluate import EvaluationSettings, Share, added, has_held_out, held_out_loss
from photon_worker.training.flops import flops_per_token
from photon_worker.training.loop import REMEDY, StepReport, Totals, Training, train
from photon_worker.training.strategy import Strategy

logger = logging.getLogger(__name__)

# What a disk writes in a few seconds: on SIGTERM a checkpoint up to this size is written before the process ends.
CHEAP_CHECKPOINT_BYTES: Final = 2 * 10**9
# One bad row or a spike is over after a few steps; after this many the weights or the machine are broken.
MAX_SKIPPED_IN_A_ROW: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerContext:
    """What a participant works with."""

    job: JobForWorkers
    data: Mixture
    work_dir: Path
    checkpoint_every: int
    device: torch.device
    client: AggregatorClient
    interrupts: Interrupts
    control: ProcessControl
    journal: Journal


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """A training task under way.

    ``base``: the global model, its flat vector from byte ``base_offset``. ``totals``: sums so far. ``saved``: all of it
    is on disk already, for it was finished before.
    """

    task: TrainTask
    strategy: Strategy
    base: FileSource
    base_offset: int
    totals: Totals
    saved: bool
    progress: TaskProgress


class RoundTrainer:
    """Trains and evaluates, one task at a time. Model and optimizer stay in memory between tasks."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._job = digest(context.job.learning)
        self._local = context.job.learning.local
        self._models = GlobalModels(context.work_dir / "models")
        self._checkpoints = Checkpoints(
            context.work_dir / "checkpoints", job=self._job, participant=context.job.participant
        )
        self._strategy: Strategy | None = None
        self._flops_per_token = 0.0
        self._peak_of_one = devices.peak_flops(context.device)
        self._peak_flops: float | None = None
        # The round whose end the optimizer's state in memory is; None while a round is under way.
        self._optimizer_round: int | None = None

    @property
    def name(self) -> str:
        return self._context.job.participant

    def train(self, task: TrainTask, progress: TaskProgress) -> UpdateReply:
        """Do a training task up to the aggregator's verdict.

        Raises:
            Cancelled: The round ended without us.
            WorkerError, StoreError: As those say.
        """
        with progress.phase("pull"):
            folder = self._models.fetch(task.model, progress)
            strategy = self._ready(folder)
            base = FileSource(folder / keys.WEIGHTS)
        try:
            with progress.phase("pull"):
                base_offset = models.check_layout(base, strategy.header).data_offset
                totals, saved = self._start(task, base, strategy)
            current = _Round(
                task=task,
                strategy=strategy,
                base=base,
                base_offset=base_offset,
                totals=totals,
                saved=saved,
                progress=progress,
            )
            if totals.steps < task.local_steps:
                self._optimizer_round = None
                with progress.phase("train"):
                    self._train(current)
                self._optimizer_round = task.round
            parts = self._upload(current)
            manifest = self._manifest(current, parts)
        finally:
            base.close()
        with progress.phase("admit"):
            reply = submit(self._context.client, manifest, progress)
        self._context.journal.round(task, reply, progress)
        _say(reply, task, progress)
        return reply

    def evaluate(self, task: EvaluateTask, progress: TaskProgress) -> HeldOutResult | None:
        """Do an evaluation task: measure the model on the held-out text and post the result.

        None when none of the data has held-out text: then there is nothing to say.
        """
        sources = {name: source for name, source in self._context.data.sources.items() if has_held_out(source)}
        if not sources:
            logger.warning("round %d: not evaluated, the data has no held-out text", task.round)
            return None
        with progress.phase("pull"):
            folder = self._models.fetch(task.model, progress)
            strategy = self._ready(folder)
            source = FileSource(folder / keys.WEIGHTS)
            try:
                strategy.load(source)
            finally:
                source.close()
        settings = EvaluationSettings.of_job(self._context.job, processes=strategy.size, sources=len(sources))
        control = self._context.control

        def check() -> None:
            if control.attention(wanted=progress.cancelled):
                progress.check()
                self._context.interrupts.check()
                control.resume()

        with progress.phase("evaluate"), control.evaluating():
            result = added(
                {
                    name: held_out_loss(
                        strategy.infer,
                        source.held_out,
                        settings,
                        device=strategy.device,
                        check=check,
                        share=Share.of(strategy),
                    )
                    for name, source in sources.items()
                }
            )
        if result.loss_sum >= MAX_LOSS * result.tokens:
            logger.warning("round %d: the model has diverged: its loss on the held-out text is no number", task.round)
        self._context.client.evaluation(
            Evaluation(
                job=self._job,
                round=task.round,
                commit=task.model.commit,
                participant=self._context.job.participant,
                # An aggregator of an earlier release takes the sums only.
                result=result if task.by_source else result.sums(),
            )
        )
        self._context.journal.evaluation(task, result)
        logger.info(
            "round %d: held-out loss %.4f nats a token over %d tokens (%.1f s)",
            task.round,
            result.loss_sum / result.tokens,
            result.tokens,
            progress.seconds("evaluate"),
        )
        return result

    def _ready(self, folder: Path) -> Strategy:
        """The strategy, built when the first model's config is here."""
        if self._strategy is None:
            config = models.read_config(folder)
            text = config.get_text_config()
            for name, source in self._context.data.sources.items():
                if source.index.vocabulary_size > text.vocab_size:
                    raise Misconfigured(
                        f"the data of {name!r} ({source.uri}) has a vocabulary of {source.index.vocabulary_size} and "
                        f"the model one of {text.vocab_size}: prepare it with the tokenizer of spec.model.tokenizer"
                    )
            self._strategy = self._context.control.strategy(config)
            self._flops_per_token = flops_per_token(
                self._strategy.header, config, sequence_length=self._local.sequence_length
            )
            if self._peak_of_one is not None:
                self._peak_flops = self._strategy.size * self._peak_of_one
        return self._strategy

    def _start(self, task: TrainTask, base: FileSource, strategy: Strategy) -> tuple[Totals, bool]:
        """Bring weights and optimizer to where the round goes on. Returns the sums so far, and whether all of it is
        on disk already because the round was finished before."""
        self._checkpoints.forget_after(task.round, task.plan)
        if task.since is not None:
            self._checkpoints.forget_through(task.since)
            if self._optimizer_round is not None and self._optimizer_round <= task.since:
                self._optimizer_round = None
        found = self._checkpoints.found()
        same_round = [f for f in reversed(found) if f.state.round == task.round]
        state = self._checkpoints.load(same_round, strategy)
        if state is not None:
            logger.info("round %d: resumed at local step %d of %d", task.round, state.local_step, task.local_steps)
            self._optimizer_round = state.round if state.finished else None
            return Totals(strategy.device, steps=state.local_step, values=state.totals), state.finished
        if self._local.state is InnerState.RESET:
            strategy.reset_optimizer()
        elif self._optimizer_round is None or self._optimizer_round >= task.round:
            before = [f for f in reversed(found) if f.state.finished and f.state.round < task.round]
            if self._checkpoints.load(before, strategy) is None:
                if before:
                    logger.warning("no finished round's state can be read: the inner optimizer starts afresh")
                strategy.reset_optimizer()
        strategy.load(base)
        return Totals(strategy.device), False

    def _train(self, current: _Round) -> None:
        context = self._context
        task, strategy, totals, progress = current.task, current.strategy, current.totals, current.progress
        interrupts = context.interrupts

        def after_step(report: StepReport) -> None:
            self._report(report, progress)
            context.journal.step(task, progress)
            diverged = report.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW
            due = report.local_step < task.local_steps and report.local_step % context.checkpoint_every == 0
            if not context.control.attention(wanted=diverged or due or progress.cancelled or interrupts.pending):
                return
            if diverged:
                raise WorkerError(
                    f"training diverged: the loss or gradient of {report.skipped_in_a_row} steps in a row is not "
                    f"finite, up to about global step {task.first_step + report.local_step}; {REMEDY}"
                )
            progress.check()
            cheap = 3 * strategy.header.data_bytes <= CHEAP_CHECKPOINT_BYTES
            if due or (interrupts.pending and cheap and report.local_step < task.local_steps):
                self._checkpoints.save(self._state(current, finished=False), strategy)
            interrupts.check()
            context.control.resume()

        running = context.control.training(first_step=task.first_step, done=totals.steps, until=task.local_steps)
        with interrupts.deferred(), running:
            train(
                strategy,
                Training(
                    batches=JobBatches(context.data, context.job.learning),
                    local=self._local,
                    seed=context.job.learning.model.seed,
                    participant=context.job.participant,
                    first_step=task.first_step,
                    until=task.local_steps,
                ),
                totals,
                after_step=after_step,
            )
        interrupts.check()

    def _manifest(self, current: _Round, parts: list[Part]) -> UpdateManifest:
        task, job = current.task, self._context.job
        return UpdateManifest(
            job=self._job,
            round=task.round,
            plan=task.plan,
            participant=job.participant,
            codec=job.learning.exchange.codec,
            elements=current.strategy.header.elements,
            tokens=task.local_steps * self._local.batch_size * self._local.sequence_length,
            local_steps=task.local_steps,
            parts=parts,
            metrics=self._metrics(current),
        )

    def _metrics(self, current: _Round) -> UpdateMetrics:
        task, strategy, totals = current.task, current.strategy, current.totals
        metrics = totals.metrics()
        # Right after a rollback everybody begins so.
        expected = task.first_step == 0 or (task.since is not None and task.round == task.since + 1)
        taken = totals.steps - metrics.skipped_steps
        # All of the optimizer's steps are of this round: a resumed round knows it too.
        fresh = self._local.state is InnerState.KEEP and not expected and strategy.optimizer_steps <= taken
        if fresh:
            logger.warning(
                "round %d: trained with a fresh inner optimizer though local.state is Keep: this work directory holds "
                "no state of an earlier round",
                task.round,
            )
        if metrics.skipped_steps:
            logger.warning(
                "round %d: %d of %d steps were skipped: their loss or gradient was not finite",
                task.round,
                metrics.skipped_steps,
                totals.steps,
            )
        if not self._context.client.takes_notes:
            return metrics.model_copy(update={"skipped_steps": 0, "balance_loss_mean": None})
        return metrics.model_copy(update={"fresh_optimizer": fresh})

    def _report(self, report: StepReport, progress: TaskProgress) -> None:
        progress.step = report.local_step
        progress.loss = report.loss if report.loss is not None and 0 <= report.loss <= MAX_LOSS else None
        progress.skipped_steps = report.skipped if self._context.client.takes_notes else 0
        progress.learning_rate = report.learning_rate
        if report.tokens_per_second is not None:
            progress.tokens_per_second = report.tokens_per_second
            if self._peak_flops is not None:
                progress.mfu = report.tokens_per_second * self._flops_per_token / self._peak_flops
        progress.memory_bytes = devices.memory_bytes(self._context.device)

    def _upload(self, current: _Round) -> list[Part]:
        """Upload the update while the end state goes to disk; both are done when this returns."""
        task, strategy, progress = current.task, current.strategy, current.progress
        exchange = self._context.job.learning.exchange
        with ThreadPoolExecutor(1, thread_name_prefix="checkpoint") as background:
            state = self._state(current, finished=True)
            saving = None if current.saved else background.submit(self._checkpoints.save, state, strategy)
            with PartSender(self._context.client, round_number=task.round, plan=task.plan, progress=progress) as sender:
                parts = encoded_parts(
                    strategy,
                    current.base,
                    current.base_offset,
                    codec_name=exchange.codec,
                    part_bytes=exchange.part_bytes,
                )
                while True:
                    with progress.phase("encode"):
                        encoded = next(parts, None)
                    if encoded is None:
                        break
                    with progress.phase("push"):
                        sender.add(*encoded)
                with progress.phase("push"):
                    sent = sender.finish()
                    if saving is not None:
                        saving.result()
        return sent

    def _state(self, current: _Round, *, finished: bool) -> LocalState:
        task, strategy, totals = current.task, current.strategy, current.totals
        return LocalState(
            job=self._job,
            participant=self._context.job.participant,
            round=task.round,
            plan=task.plan,
            local_step=totals.steps,
            finished=finished,
            optimizer_steps=strategy.optimizer_steps,
            totals=totals.values(),
            layout=layout_digest(strategy.header),
        )


def _say(reply: UpdateReply, task: TrainTask, progress: TaskProgress) -> None:
    if reply.state == "refused":
        logger.error("round %d: the update was refused: %s: %s", task.round, reply.reason, reply.message)
        return
    snapshot = progress.snapshot()
    logger.info(
        "round %d: accepted; loss %.4f, %s tokens/s; train %.1f s, pull %.1f, encode %.1f, push %.1f, admit %.1f",
        task.round,
        snapshot.loss if snapshot.loss is not None else float("nan"),
        f"{snapshot.tokens_per_second:,.0f}" if snapshot.tokens_per_second else "-",
        *(progress.seconds(phase) for phase in ("train", "pull", "encode", "push", "admit")),
    )
