"""Heartbeats, evaluations, and participants that have gone silent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from photon.protocol.figures import mean_loss, perplexity
from photon.protocol.views import EventKind
from photon_aggregator.rounds import assignment
from photon_aggregator.rounds.events import Action, Evaluated, Heartbeat, JobEvent
from photon_aggregator.rounds.opening import plan_next, settle
from photon_aggregator.rounds.state import JobState
from photon_aggregator.rounds.steps import Step, soon
from photon_aggregator.rounds.stopping import bounded


def evaluated(state: JobState, event: Evaluated) -> Step:
    head = state.head
    if head is None or event.round > head.round or _is_forgotten(state, event.round):
        return state, []
    before: Mapping[str, object] = state.evaluations.get(event.round, {})
    if event.participant in before:
        return state, []
    results = {**state.evaluations.get(event.round, {}), event.participant: event.result}
    if event.round == 0:
        state = replace(state, baseline={**state.baseline, event.participant: event.result})
    state = bounded(replace(state, evaluations={**state.evaluations, event.round: results}))
    loss = mean_loss([event.result])
    note = JobEvent(
        at=event.at,
        kind=EventKind.EVALUATED,
        round=event.round,
        participant=event.participant,
        message=f"perplexity {perplexity(loss):.3f}" if loss is not None else "no held-out text",
    )
    state, actions = settle(state, event.at)
    return state, [note, *actions]


def _is_forgotten(state: JobState, round_number: int) -> bool:
    """Whether the results of this round are no longer kept one by one: they were counted as they were."""
    return round_number <= state.past_losses.through and round_number not in state.evaluations


def heartbeat(state: JobState, event: Heartbeat) -> Step:
    if event.participant not in state.settings.participants:
        return state, []
    first = event.participant not in state.seen or event.participant in state.absent
    state = replace(
        state,
        seen={**state.seen, event.participant: max(event.at, state.seen.get(event.participant, event.at))},
        absent=state.absent - {event.participant} if event.participant in state.absent else state.absent,
        unheard=state.unheard - {event.participant} if event.participant in state.unheard else state.unheard,
    )
    notes: list[Action] = []
    if first:
        round_number = state.head.round if state.head is not None else 0
        notes.append(
            JobEvent(at=event.at, kind=EventKind.PARTICIPANT_JOINED, round=round_number, participant=event.participant)
        )
    if event.done is not None:
        state = _says_done(state, event.participant, event.done, event.at)
    elif state.open is not None and state.head is not None and event.task == assignment.train_id(state.open.round):
        # Evaluation comes before training.
        state = _says_done(state, event.participant, assignment.evaluate_id(state.head.round), event.at)
    state, actions = plan_next(state, event.at) if state.lacks_members else settle(state, event.at)
    return state, [*notes, *actions]


def _says_done(state: JobState, participant: str, done: str, at: float) -> JobState:
    """It may have handed its work to another aggregator: scan, rather than have it done twice."""
    head, open_round = state.head, state.open
    if head is None:
        return state
    if assignment.speaks_of_later_round(state, done):
        return soon(state, at)
    if open_round is not None and done == assignment.train_id(open_round.round):
        return state if participant in open_round.submissions else soon(state, at)
    silent = participant not in state.evaluations.get(head.round, {}) and participant not in state.declined
    if done == assignment.evaluate_id(head.round) and silent:
        return replace(soon(state, at), declined=state.declined | {participant})
    return state
