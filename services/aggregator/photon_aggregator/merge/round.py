"""The merge of a round as a whole: threads over stripes, outputs committed together."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from photon.api.training import OuterSpec
from photon.protocol.records import LearningMetrics
from photon.store.sink import Sink, SinkAborted, Written
from photon.store.source import Source
from photon.store.tensors import Header, read_header, require_flat
from photon_aggregator.errors import Abandoned
from photon_aggregator.merge.layout import FROM_FILES, Layers, MergeSettings, cut
from photon_aggregator.merge.outer import MOMENTUM, VELOCITY, state_names
from photon_aggregator.merge.statistics import OrderedSums, Sums, cosines, learning_metrics, use_one_blas_thread
from photon_aggregator.merge.stripe import StripeWorker, Task, Vector
from photon_aggregator.merge.updates import CorruptError, MergeError, NotFiniteModelError, UpdateInput
from photon_aggregator.merge.verify import OrderedDigest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedUpdate:
    """What the merge found about one update: its share of the mean, its L2 norm, its cosine with the mean."""

    participant: str
    weight: float
    norm: float
    cosine_to_mean: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeResult:
    """``model`` and ``state`` (by name) as written; ``updates`` by participant; ``metrics`` without train_loss."""

    model: Written
    state: dict[str, Written]
    updates: tuple[MergedUpdate, ...]
    metrics: LearningMetrics


def merge_round(
    updates: Sequence[UpdateInput],
    *,
    model: Source,
    state: Mapping[str, Source],
    digests: Mapping[str, str] | None = None,
    outer: OuterSpec,
    step: int,
    open_sink: Callable[[str, Header], Sink],
    settings: MergeSettings = FROM_FILES,
    on_progress: Callable[[int, int], None] | None = None,
    cancelled: threading.Event | None = None,
) -> MergeResult:
    """Merge a round's updates into the next global model.

    Args:
        updates: In any order (they are added in the order of participants' names).
        model: The current ``model.safetensors``.
        state: The outer optimizer's vectors as the last merge wrote them; empty before the first step.
        digests: sha256 of the model (name "") and of vectors of ``state``: what is read is compared with it.
        step: Number of this outer step, from 1.
        open_sink: Makes the output file for the model (name "") or a vector of outer state (its name), given the
            header that the file will have; all with the same stripe_bytes, a multiple of 4096. The sinks are committed
            or aborted here.
        on_progress: Called with (bytes of the model written, bytes of the model) after each stripe, from any thread.
        cancelled: Stops the merge at the next stripe.

    Raises:
        UpdateFault: An update holds NaN or infinity, or its parts have changed.
        CorruptError: The model or the outer state has other bytes than ``digests`` say.
        NotFiniteModelError: The new model or outer state is not finite.
        MergeError: Updates that do not fit the model; cancelled.
        StoreError, OSError: From the sources and sinks.
    """
    use_one_blas_thread()
    ordered = sorted(updates, key=lambda update: update.participant)
    header = require_flat(read_header(model))
    names = state_names(outer)
    _check(ordered, header, names, state)
    total = math.fsum(update.weight for update in ordered)
    weights = [update.weight / total for update in ordered]
    clips = [update.clip for update in ordered]
    expected = digests or {}
    target = header.aligned()
    sinks: dict[str, Sink] = {}
    try:
        for name in ("", *names):
            sinks[name] = open_sink(name, target)
        task = Task(
            updates=ordered,
            weights=np.array([weight * clip for weight, clip in zip(weights, clips, strict=True)], np.float32),
            inverse_norms=np.array([1 / u.norm if u.norm > 0 else 0.0 for u in ordered], np.float32),
            model=_verified(model, header, expected.get("")),
            states={name: _vector(name, state, header, expected.get(name)) for name in names},
            outer=outer,
            step=step,
            layout=cut(
                target,
                stripe_bytes=_common_stripe(sinks),
                updates=len(ordered),
                states=len(names),
                settings=settings,
            ),
            layers=Layers(header.entries),
        )
        sums = _Run(task, sinks, on_progress, cancelled).work(task.layout.threads)
        sums.squares[:] = np.square([update.norm for update in ordered])
        _compare(task, expected)
        _require_finite(sums, names)
        written = {name: sink.commit() for name, sink in sinks.items()}
    finally:
        abort_all(sinks.values())
    metrics = learning_metrics(
        sums,
        layers=task.layers.names,
        weights=weights,
        clips=clips,
        tokens=[update.tokens for update in ordered],
        momentum=_momentum(sums, names),
    )
    found = zip(ordered, weights, np.sqrt(sums.squares).tolist(), cosines(sums), strict=True)
    return MergeResult(
        model=written.pop(""),
        state=written,
        updates=tuple(
            MergedUpdate(participant=update.participant, weight=weight, norm=norm, cosine_to_mean=cosine)
            for update, weight, norm, cosine in found
        ),
        metrics=metrics,
    )


def _check(updates: Sequence[UpdateInput], header: Header, names: Sequence[str], state: Mapping[str, Source]) -> None:
    if not updates:
        raise MergeError("there is no update to merge")
    participants = [update.participant for update in updates]
    if len(set(participants)) != len(participants):
        raise MergeError(f"more than one update of a participant: {', '.join(participants)}")
    for update in updates:
        update.check(header.elements)
    if state and sorted(state) != sorted(names):
        raise MergeError(f"the outer state holds {sorted(state)}; the outer optimizer needs {sorted(names)}")


def _verified(source: Source, header: Header, sha256: str | None) -> Vector:
    """The vector of a file whose bytes, the header's included, are hashed when ``sha256`` is known."""
    if sha256 is None:
        return Vector(source=source, offset=header.data_offset)
    head = bytearray(header.data_offset)
    source.read_into(0, memoryview(head))
    return Vector(source=source, offset=header.data_offset, digest=OrderedDigest(bytes(head)))


def _compare(task: Task, expected: Mapping[str, str]) -> None:
    """Raise CorruptError for the first vector that is not what the commit says."""
    for name, vector in {"": task.model, **task.states}.items():
        if vector is None or vector.digest is None:
            continue
        found, due = vector.digest.hexdigest(), expected[name]
        if found != due:
            what = f"the outer state {name!r}" if name else "the global model"
            raise CorruptError(
                f"{what} in the bucket is not the file that was committed: its sha256 is {found[:16]}..., by the "
                f"commit it is {due[:16]}...; restore the file, or go back to an earlier round with photon rollback"
            )


def _require_finite(sums: Sums, names: Sequence[str]) -> None:
    if not math.isfinite(float(sums.model.sum())):
        raise NotFiniteModelError("the new global model is not finite: lower outer.learningRate")
    for name, total in zip(names, sums.states.tolist(), strict=True):
        if not math.isfinite(total):
            raise NotFiniteModelError(
                f"the outer state {name!r} is not finite: these weights would never move again; go back to an earlier "
                "round with photon rollback"
            )


def _momentum(sums: Sums, names: Sequence[str]) -> float | None:
    """Square of the outer momentum; None for optimizers that have none."""
    if MOMENTUM in names:
        return float(sums.states[list(names).index(MOMENTUM)])
    return sums.momentum if VELOCITY in names else None


def abort_all(sinks: Iterable[Sink]) -> None:
    """Abort sinks that were not committed.

    All are marked first: a thread that waits for its turn in one of them must not be left waiting because the store
    could not drop another. What cannot be dropped is logged; the next start tidies it up.
    """
    several = list(sinks)
    for sink in several:
        sink.give_up()
    for sink in several:
        try:
            sink.abort()
        except Exception as error:
            logger.warning("what a merge had written could not be dropped: %s", error)


def _vector(name: str, state: Mapping[str, Source], model: Header, sha256: str | None) -> Vector | None:
    source = state.get(name)
    if source is None:
        return None
    header = require_flat(read_header(source))
    if header.entries != model.entries:
        raise MergeError(f"outer state {name!r} does not have the tensors of the model")
    return _verified(source, header, sha256)


def _common_stripe(sinks: Mapping[str, Sink]) -> int:
    sizes = {sink.stripe_bytes for sink in sinks.values()}
    if len(sizes) != 1:
        raise ValueError(f"the outputs have stripes of different sizes: {sorted(sizes)}")
    return sizes.pop()


class _Run:
    """The threads of one merge. They take stripes in ascending order, as sinks ask."""

    def __init__(
        self,
        task: Task,
        sinks: Mapping[str, Sink],
        on_progress: Callable[[int, int], None] | None,
        cancelled: threading.Event | None,
    ) -> None:
        self._task = task
        self._sinks = sinks
        self._on_progress = on_progress
        self._cancelled = cancelled
        self._lock = threading.Lock()
        self._next = 0
        self._done_bytes = 0
        self._errors: list[BaseException] = []
        self._sums = OrderedSums(Sums.zeros(len(task.updates), len(task.layers.names), len(task.states)))

    def work(self, threads: int) -> Sums:
        count = min(threads, self._task.layout.stripes)
        workers = [threading.Thread(target=self._loop, name=f"merge-{index}") for index in range(count)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if self._errors:
            # The first is the cause; the others gave up because of it.
            raise self._errors[0]
        return self._sums.total

    def _claim(self) -> int | None:
        with self._lock:
            if self._errors or self._next == self._task.layout.stripes:
                return None
            if self._cancelled is not None and self._cancelled.is_set():
                raise MergeError("the merge was cancelled")
            self._next += 1
            return self._next - 1

    def _loop(self) -> None:
        try:
            with np.errstate(all="ignore"):  # what is not finite is found by the sums, and named
                worker = StripeWorker(self._task)
                while (index := self._claim()) is not None:
                    self._stripe(worker, index)
        except (SinkAborted, Abandoned):
            return
        except BaseException as error:  # handed to the caller's thread by work()
            with self._lock:
                self._errors.append(error)
            for vector in (self._task.model, *self._task.states.values()):
                if vector is not None and vector.digest is not None:
                    vector.digest.abandon()
            abort_all(self._sinks.values())

    def _stripe(self, worker: StripeWorker, index: int) -> None:
        outputs, sums = worker.run(self._task.layout.stripe(index))
        with self._lock:
            self._sums.add(index, sums)
        for name, sink in self._sinks.items():
            sink.write(index, outputs[name])
        if self._on_progress is not None:
            with self._lock:
                self._done_bytes += len(outputs[""])
                done = self._done_bytes
            self._on_progress(done, self._task.layout.header.file_bytes)
