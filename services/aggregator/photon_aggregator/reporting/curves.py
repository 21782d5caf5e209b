"""A job's history as columns for curves: one number a round for each, and what a participant did on request.

The records of a round say everything and are large (64 participants, 1,000 rounds: 60 MB of JSON); curves need some
thirty numbers of them. The last 2,000 rounds are kept as numbers in blocks of 100 rounds; the text of a block is made
when it is first asked for and again when something of it has changed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final, get_args

import numpy as np
import numpy.typing as npt

from photon.protocol.figures import LEARNING, mean_loss, perplexity
from photon.protocol.ranges import Count
from photon.protocol.records import AcceptedUpdate, HeldOutResult, Phase, RoundLog
from photon_aggregator.pieces import Piece, glue, pack
from photon_aggregator.rounds.events import Head

Numbers = npt.NDArray[np.float64]
# Whose (None: the job's), and its name.
Column = tuple[str | None, str]
# Of what a text was made: the versions of its blocks, and of which rounds.
Version = tuple[int, ...]

ROUNDS_KEPT: Final = 2000
BLOCK_ROUNDS: Final = 100
PHASES: Final[tuple[Phase, ...]] = get_args(Phase)
# Figures are drawn and read at these many significant digits; the records themselves have them all.
_DIGITS: Final = 5
_SECONDS_DIGITS: Final = 3
_SHORT_DIGEST: Final = 12

_OF_UPDATE: Final[Mapping[str, Callable[[AcceptedUpdate], float | None]]] = {
    "trainLoss": lambda u: u.loss_mean,
    "norm": lambda u: u.norm,
    "cosine": lambda u: u.cosine_to_mean,
    "weight": lambda u: u.weight,
}
_WHOLE: Final = frozenset({"tokens", "at", "updates", "bytesUp", "bytesDown"})
# The mean of those who were quick is another figure: with their easier text the curve would seem to fall.
_JUDGED: Final = ("validationLoss", "perplexity", "perplexityLow", "perplexityHigh")
_JOB: Final = (
    *("tokens", "at", "trainLossLow", "trainLossHigh", *_JUDGED, "updates", "bytesUp", "bytesDown"),
    *(figure.curve for figure in LEARNING),
    *PHASES,
)
_PARTICIPANT: Final = (*_OF_UPDATE, "perplexity")
_RESULT: Final = ("lossSum", "tokens", "bytes")


class _Block:
    """The numbers of BLOCK_ROUNDS rounds, NaN where there is none. ``version``: another one after each change."""

    def __init__(self) -> None:
        self.version = 0
        self.job = {name: _empty() for name in _JOB}
        self.digests = [""] * BLOCK_ROUNDS
        self.participants: dict[str, dict[str, Numbers]] = {}
        self.texts: dict[Column, tuple[Version, bytes]] = {}
        self.pieces: dict[Column, tuple[Version, Piece]] = {}

    def participant(self, name: str) -> dict[str, Numbers]:
        return self.participants.setdefault(name, {column: _empty() for column in (*_PARTICIPANT, *_RESULT)})

    def numbers(self, participant: str | None, column: str) -> Numbers | None:
        """A column's numbers; None when there are none of this participant."""
        if participant is None:
            return self.job[column]
        found = self.participants.get(participant)
        return None if found is None else found[column]


class CurveBook:
    """The curves of the rounds ``first`` to ``last``: the last one committed and up to ROUNDS_KEPT before it.

    It is changed on the event loop and read from threads: a reader may see half of a change, and sees all of it when it
    asks for the next ``revision``.
    """

    def __init__(self) -> None:
        self._blocks: dict[int, _Block] = {}
        # A column over all blocks but the last: 64 participants for 2,000 rounds are 320 pieces instead of 6,400.
        self._old: dict[Column, tuple[Version, Piece]] = {}
        self.first = 0
        self.last = -1
        self.changes = 0

    @property
    def revision(self) -> str:
        """Another one when more is known. What is before the dot is another one when older rounds came or went."""
        return f"{self.first // BLOCK_ROUNDS}.{self.changes}"

    @property
    def complete(self) -> bool:
        """Whether there is no older round to be added."""
        return self.last < 0 or self.first == 0 or self.last - self.first >= ROUNDS_KEPT - 1

    def committed(self, head: Head, log: RoundLog | None) -> None:
        """The round after the last; after any other one the book begins with it."""
        number = head.round
        if number != self.last + 1 or self.last < 0:
            self._blocks.clear()
            self.first = number
        self.last = number
        self._write(head, log)
        self.first = max(self.first, (self.last - ROUNDS_KEPT + 1) // BLOCK_ROUNDS * BLOCK_ROUNDS)
        for old in [index for index in self._blocks if index < self.first // BLOCK_ROUNDS]:
            del self._blocks[old]

    def remembered(self, head: Head, log: RoundLog | None, results: Mapping[str, HeldOutResult]) -> None:
        """The round before the first, read from the bucket; any other is not wanted."""
        if head.round != self.first - 1 or self.complete:
            return
        self._write(head, log)
        self.evaluated(head.round, results)
        # Last: what is from here on is there as a whole.
        self.first = head.round

    def logged(self, log: RoundLog) -> None:
        """The log of a round came again, grown."""
        block = self._blocks.get(log.round // BLOCK_ROUNDS)
        if block is not None:
            _put(block.job, log.round % BLOCK_ROUNDS, _of_log(log))
            self._changed(block)

    def evaluated(self, number: int, results: Mapping[str, HeldOutResult]) -> None:
        """Results for the model of a round; those that are known already stay."""
        block = self._blocks.get(number // BLOCK_ROUNDS)
        if block is None or not results:
            return
        at = number % BLOCK_ROUNDS
        for name, result in results.items():
            loss = mean_loss([result])
            own = perplexity(loss) if loss is not None else None
            cells = {"perplexity": own, "lossSum": result.loss_sum, "tokens": result.tokens, "bytes": result.bytes}
            _put(block.participant(name), at, cells)
        known = _results(block, at)
        loss = mean_loss(known.values())
        everyone = [block.participants[name]["perplexity"][at] for name in known]
        measured = [float(value) for value in everyone if value == value]
        cells = {
            "validationLoss": loss,
            "perplexity": perplexity(loss) if loss is not None else None,
            "perplexityLow": min(measured, default=None),
            "perplexityHigh": max(measured, default=None),
        }
        _put(block.job, at, cells)
        self._changed(block)

    def results(self, number: int) -> dict[str, HeldOutResult] | None:
        """All results of a round, exactly as they came; None when the round is not in memory."""
        block = self._blocks.get(number // BLOCK_ROUNDS)
        if block is None or not self.first <= number <= self.last:
            return None
        return _results(block, number % BLOCK_ROUNDS)

    def pieces(
        self, *, instance: str, revision: str, unfinished: int | None, after: int, participants: Sequence[str]
    ) -> list[Piece]:
        """A ``Curves`` as JSON: rounds later than ``after``. ``unfinished``: the round that is being evaluated."""
        last = self.last
        first = min(max(self.first, after + 1), max(last, after) + 1)
        about = {"instance": instance, "revision": revision, "first": first, "last": max(last, first - 1)}
        found = [glue(json.dumps(about)[:-1].encode() + b',"columns":{')]
        columns = (*_JOB[:2], "digest", *_JOB[2:])
        found += self._columns(None, columns, first, last, unfinished)
        found.append(glue(b'},"participants":{'))
        for i, name in enumerate(participants):
            found.append(glue(f"{',' if i else ''}{json.dumps(name)}:{{".encode()))
            found += self._columns(name, _PARTICIPANT, first, last, None)
            found.append(_CLOSE)
        found.append(glue(b"}}"))
        return found

    def _columns(
        self, participant: str | None, columns: Sequence[str], first: int, last: int, unfinished: int | None
    ) -> list[Piece]:
        """``"name":[...],...``; a column without any figure is left out."""
        found: list[Piece] = []
        indices = range(first // BLOCK_ROUNDS, last // BLOCK_ROUNDS + 1) if first <= last else range(0)
        blocks = [(index * BLOCK_ROUNDS, self._blocks.get(index)) for index in indices]
        # Where a reader wants to begin is no reason to keep something.
        whole = first == self.first and not (unfinished is not None and unfinished < (last - last % BLOCK_ROUNDS))
        old = blocks[:-1] if whole and len(blocks) > 2 else []
        # Read before the numbers: if these change meanwhile, what is kept here is of a version that is no more.
        versions = (first, *[-1 if block is None else block.version for _, block in old])
        for column in columns:
            texts: list[Piece] = []
            if old:
                texts.append(self._old_piece(old, versions, participant, column, first))
            known = bool(old) and _holds_figures(texts[0])
            for start, block in blocks[len(old) :]:
                low, high = max(0, first - start), min(BLOCK_ROUNDS, last + 1 - start)
                masked = unfinished is not None and start <= unfinished < start + BLOCK_ROUNDS and column in _JUDGED
                mask = unfinished - start if masked and unfinished is not None else None
                piece = self._piece(block, participant, column, low, high, mask)
                known = known or _holds_figures(piece)
                texts += [_COMMA, piece] if texts else [piece]
            if known:
                found += [glue(f'{"," if found else ""}"{column}":['.encode()), *texts, _END_OF_COLUMN]
        return found

    def _piece(
        self, block: _Block | None, participant: str | None, column: str, low: int, high: int, mask: int | None
    ) -> Piece:
        """The cells [low, high) of a block's column."""
        if block is None:
            return glue(_nulls(high - low))
        key, version = (participant, column), (block.version, low, high)
        kept = block.pieces.get(key)
        if kept is not None and kept[0] == version and mask is None:
            return kept[1]
        piece = pack(_text_of(block, participant, column, low, high, mask))
        # Only whole blocks and the one that grows.
        if mask is None and (low == 0 or low == self.first % BLOCK_ROUNDS):
            block.pieces[key] = (version, piece)
        return piece

    def _old_piece(
        self,
        old: Sequence[tuple[int, _Block | None]],
        versions: Version,
        participant: str | None,
        column: str,
        first: int,
    ) -> Piece:
        """The cells of the whole blocks ``old``, from round ``first``."""
        key = (participant, column)
        kept = self._old.get(key)
        if kept is not None and kept[0] == versions:
            return kept[1]
        texts = []
        for (start, block), version in zip(old, versions[1:], strict=True):
            low = max(0, first - start)
            if block is None:
                texts.append(_nulls(BLOCK_ROUNDS - low))
                continue
            known = block.texts.get(key)
            if known is None or known[0] != (version, low):
                known = block.texts[key] = (version, low), _text_of(block, participant, column, low, BLOCK_ROUNDS, None)
            texts.append(known[1])
        piece = pack(b",".join(texts))
        self._old[key] = versions, piece
        return piece

    def _write(self, head: Head, log: RoundLog | None) -> None:
        commit, at = head.commit, head.round % BLOCK_ROUNDS
        block = self._blocks.setdefault(head.round // BLOCK_ROUNDS, _Block())
        losses = [update.loss_mean for update in commit.accepted]
        cells: dict[str, float | None] = {
            "tokens": commit.tokens,
            "trainLossLow": min(losses, default=None),
            "trainLossHigh": max(losses, default=None),
            "updates": len(commit.accepted),
        }
        if commit.metrics is not None:
            cells |= {figure.curve: figure.of(commit.metrics) for figure in LEARNING}
        if log is not None:
            cells |= _of_log(log)
        _put(block.job, at, cells)
        block.digests[at] = head.digest[:_SHORT_DIGEST]
        for update in commit.accepted:
            _put(block.participant(update.participant), at, {name: get(update) for name, get in _OF_UPDATE.items()})
        self._changed(block)

    def _changed(self, block: _Block) -> None:
        block.version += 1
        self.changes += 1


_COMMA: Final = glue(b",")
_CLOSE: Final = glue(b"}")
_END_OF_COLUMN: Final = glue(b"]")


def _nulls(count: int) -> bytes:
    return b",".join([b"null"] * count)


def _holds_figures(piece: Piece) -> bool:
    return piece.text.strip(b"nul,") != b""


def _text_of(block: _Block, participant: str | None, column: str, low: int, high: int, mask: int | None) -> bytes:
    """The cells [low, high) of a block's column; ``mask`` is shown as if it had none."""
    if column == "digest" and participant is None:
        return json.dumps(block.digests[low:high], separators=(",", ":"))[1:-1].encode()
    numbers = block.numbers(participant, column)
    if numbers is None:
        return _nulls(high - low)
    cells = numbers[low:high].tolist()
    if mask is not None and low <= mask < high:
        cells[mask - low] = math.nan
    return _text(cells, column).encode()


def _empty() -> Numbers:
    return np.full(BLOCK_ROUNDS, np.nan)


def _put(columns: Mapping[str, Numbers], at: int, cells: Mapping[str, float | None]) -> None:
    for name, value in cells.items():
        columns[name][at] = math.nan if value is None else value


def _results(block: _Block, at: int) -> dict[str, HeldOutResult]:
    known = {
        name: [participant[column][at] for column in _RESULT]
        for name, participant in sorted(block.participants.items())
    }
    return {
        name: HeldOutResult(loss_sum=float(loss_sum), tokens=int(tokens), bytes=int(size))
        for name, (loss_sum, tokens, size) in known.items()
        if tokens == tokens
    }


def _of_log(log: RoundLog) -> dict[str, float | None]:
    cells: dict[str, float | None] = {"at": _epoch(log.committed_at), "bytesUp": log.bytes_up}
    return cells | {"bytesDown": log.bytes_down} | {phase: log.seconds.get(phase) for phase in PHASES}


def _text(cells: Sequence[float], column: str) -> str:
    digits = "%.0f" if column in _WHOLE else f"%.{_SECONDS_DIGITS if column in PHASES else _DIGITS}g"
    # One format for all of them takes less time than one each.
    text = ",".join([digits] * len(cells)) % tuple(cells)
    return text.replace("-inf", "null").replace("inf", "null").replace("nan", "null") if "n" in text else text


def _epoch(at: str) -> Count | None:
    try:
        return round(datetime.fromisoformat(at).timestamp())
    except ValueError:
        return None
