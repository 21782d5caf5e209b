"""The live table of ``photon run``: a JobStatus as a rich renderable. Pure; it fits 80 columns and grows no wider."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from photon.api.status import JobStatus, ParticipantState, ParticipantStatus
from photon.terminal import lines, units

WIDTH: Final = 92
# More participants than this would scroll off a screen; the busy and the troubled are shown first.
_MOST_ROWS: Final = 24

# With more participants a row for each of their data folders is too much.
_MOST_WITH_SOURCES: Final = 4

_STYLES: Final = {
    ParticipantState.ABSENT: "dim",
    ParticipantState.IDLE: "dim",
    ParticipantState.PULLING: "cyan",
    ParticipantState.TRAINING: "green",
    ParticipantState.PUSHING: "cyan",
    ParticipantState.CHECKING: "yellow",
    ParticipantState.SUBMITTED: "bold green",
    ParticipantState.EVALUATING: "magenta",
    ParticipantState.REFUSED: "bold red",
    ParticipantState.LATE: "red",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that is shown. ``phase`` says what goes on before there is a status; ``events`` are newest last.

    ``condition`` is what is true of the job, in a line; ``elapsed_seconds`` None where it is unknown;
    ``lost`` names participants whose worker here has failed for good.
    """

    name: str
    phase: str
    status: JobStatus | None
    local_steps: int
    elapsed_seconds: float | None
    condition: str = ""
    lost: Collection[str] = ()
    events: Sequence[tuple[str, str]] = ()
    footer: str = ""


def render(view: View, *, width: int = WIDTH) -> RenderableType:
    """The table, ``width`` columns wide."""
    parts: list[RenderableType] = [_headline(view)]
    if view.condition:
        parts.append(Text(view.condition, style="dim"))
    if view.status is not None:
        parts += [Text(""), _participants(view.status, view.local_steps, view.lost)]
        measured_on = lines.measured_on(view.status)
        if measured_on:
            parts.append(Text(f"perplexity {measured_on}", style="dim"))
    if view.events:
        parts += [Text(""), *(_event(stamp, message) for stamp, message in view.events)]
    if view.footer:
        parts += [Text(""), Text(view.footer, style="dim", overflow="ellipsis", no_wrap=True)]
    return Constrain(Padding(Group(*parts), (1, 1, 0, 1)), width)


def _event(stamp: str, message: str) -> Text:
    return Text.assemble((f"{stamp}  ", "dim"), (message, "yellow"))


def _headline(view: View) -> RenderableType:
    status = view.status
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    if status is None or not status.rounds:
        grid.add_column(no_wrap=True)
        grid.add_row(Text(view.name, style="bold"), Text(f"{view.phase}  {units.duration(view.elapsed_seconds)}"))
        return grid
    for _ in range(4):
        grid.add_column(no_wrap=True)
    done = status.committed_rounds
    elapsed = "" if view.elapsed_seconds is None else units.duration(view.elapsed_seconds)
    left = "" if status.eta_seconds is None else f"{units.duration(status.eta_seconds)} left"
    grid.add_row(
        Text(view.name, style="bold"),
        Text(f"round {max(status.round, done)}/{status.rounds}"),
        ProgressBar(total=status.rounds, completed=done, width=22),
        Text(f"{100 * done // status.rounds:3d} %"),
        Text("  ".join(filter(None, (elapsed, left))), style="dim"),
    )
    return grid


def _participants(status: JobStatus, local_steps: int, lost: Collection[str]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("participant", no_wrap=True, min_width=12, max_width=16, overflow="ellipsis")
    table.add_column("state", no_wrap=True, min_width=10)
    for title, width in (("step", 8), ("tok/s", 5), ("loss", 6), ("perpl.", 6), ("up", 7), ("down", 7)):
        table.add_column(title, justify="right", no_wrap=True, min_width=width)
    shown = sorted(status.participants, key=lambda p: not p.in_cohort)[:_MOST_ROWS]
    for p in sorted(shown, key=lambda p: p.name):
        table.add_row(*_row(p, local_steps, p.name in lost), style="" if p.in_cohort else "dim")
        for source in p.sources if len(shown) <= _MOST_WITH_SOURCES else ():
            table.add_row(f"  {source.name}", *[""] * 4, units.perplexity(source.perplexity), style="dim")
    if len(status.participants) > len(shown):
        table.add_row(f"and {len(status.participants) - len(shown)} more", style="dim")
    table.add_row(*_together(status), style="bold")
    return table


def _together(status: JobStatus) -> list[str]:
    """The last row: the job as a whole. The perplexity is that of the last evaluated model, named by its round."""
    rates = [p.tokens_per_second for p in status.participants if p.tokens_per_second]
    evaluated = "" if status.evaluated_round is None else f"eval {status.evaluated_round}"
    return [
        "together",
        f"{units.amount(status.tokens)} tok",
        evaluated,
        units.amount(sum(rates) if rates else None),
        units.loss(status.train_loss),
        units.perplexity(status.validation_perplexity),
        units.data_size(status.bytes_up),
        units.data_size(status.bytes_down),
    ]


def _row(p: ParticipantStatus, local_steps: int, lost: bool) -> list[Text | str]:
    at_work = p.state is ParticipantState.TRAINING
    return [
        p.name,
        Text("failed", style="bold red") if lost else Text(p.state.value.lower(), style=_STYLES[p.state]),
        f"{p.step}/{local_steps}" if at_work else "",
        units.amount(p.tokens_per_second),
        units.loss(p.loss),
        units.perplexity(p.perplexity),
        units.data_size(p.bytes_up),
        units.data_size(p.bytes_down),
    ]
