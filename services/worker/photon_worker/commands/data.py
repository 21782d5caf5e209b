"""``photon-worker data prepare | inspect``: what a contributing institution runs on its text before it joins a job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from pydantic import ValidationError

from photon.api.model import TokenizerSpec
from photon.ending import exit_with_mistake
from photon.exit_codes import EXIT_STOPPED
from photon_worker.data.dataset import TokenDataset
from photon_worker.data.findings import describe, printable
from photon_worker.data.index import Index, PreparationSettings
from photon_worker.data.names import check_scheme
from photon_worker.data.tokenizer import TextEncoder
from photon_worker.lifecycle.data_errors import DataError

app = typer.Typer(
    name="data",
    help="Turn text into token shards, and look at them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


class Format(StrEnum):
    """How files are read."""

    AUTO = "auto"
    TEXT = "text"
    JSONL = "jsonl"
    PARQUET = "parquet"
    SOURCE = "source"


class InvalidBytes(StrEnum):
    """What becomes of text that is valid neither in UTF-8 nor in the encoding that was named."""

    FAIL = "fail"
    REPLACE = "replace"
    SKIP = "skip"


class BadRecords(StrEnum):
    """What becomes of rows without a text where it is looked for."""

    FAIL = "fail"
    SKIP = "skip"


class NearDuplicates(StrEnum):
    """What becomes of training documents that are nearly the same as another one."""

    KEEP = "keep"
    REMOVE = "remove"


@app.command("prepare")
def prepare_command(
    inputs: Annotated[
        list[str], typer.Argument(help="Files, folders, s3:// URIs, or - for standard input.", metavar="INPUT")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    tokenizer: Annotated[str, typer.Option(help="byte, or a tokenizer.json (path, folder or s3:// URI).")] = "byte",
    kind: Annotated[
        Format,
        typer.Option(
            "--format", help="auto: by content and name. text: long files are cut. source: one document per file."
        ),
    ] = Format.AUTO,
    text_field: Annotated[
        str, typer.Option(help="Field or column with the text; meta.text for a nested one.")
    ] = "text",
    encoding: Annotated[
        str | None,
        typer.Option(help="Encoding of text that is not valid UTF-8, such as latin-1. Byte order marks need none."),
    ] = None,
    invalid_bytes: Annotated[
        InvalidBytes | None,
        typer.Option(
            help="Text that is still not valid: fail, replace the bytes by U+FFFD, or skip the document. "
            "Default: fail; in source files, skip.",
            show_default=False,
        ),
    ] = None,
    bad_records: Annotated[
        BadRecords, typer.Option(help="Rows without text in the field: fail, or skip and count them.")
    ] = BadRecords.FAIL,
    include: Annotated[list[str] | None, typer.Option(help="Only files that fit this pattern; repeatable.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="No files that fit this pattern; repeatable.")] = None,
    held_out_fraction: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Share of the documents kept for evaluation.")
    ] = 0.02,
    held_out_bytes: Annotated[
        int | None, typer.Option(min=1, help="Held-out text of this size instead of a share.")
    ] = None,
    max_bytes: Annotated[
        int | None, typer.Option(min=1, help="Train on at most this many bytes, chosen by document.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the held-out documents.")] = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; default: one per core. The result is the same.")
    ] = None,
    shard_tokens: Annotated[int, typer.Option(min=1024, help="Tokens of a shard.")] = 64 * 2**20,
    cut_bytes: Annotated[
        int, typer.Option(min=0, help="Cut longer text files (not source files) into documents; 0: never.")
    ] = 64 * 2**10,
    deduplicate: Annotated[bool, typer.Option(help="Leave out exact copies of a document.")] = True,
    near_duplicates: Annotated[
        NearDuplicates,
        typer.Option(help="Near-duplicates within the training text; those of held-out documents always go."),
    ] = NearDuplicates.KEEP,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start over: delete what was prepared in --output.")
    ] = False,
) -> None:
    """Turn text into token shards.

    Run again after an interruption, it goes on where it was.
    """
    from photon_worker.data.prepare import prepare
    from photon_worker.data.progress import reporter

    settings = PreparationSettings(
        format=kind.value,
        text_field=text_field,
        include=include or [],
        exclude=exclude or [],
        held_out_fraction=None if held_out_bytes is not None else held_out_fraction,
        held_out_bytes=held_out_bytes,
        max_bytes=max_bytes,
        seed=seed,
        shard_tokens=shard_tokens,
        cut_bytes=cut_bytes,
        deduplicate=deduplicate,
        near_duplicates=near_duplicates.value,
        encoding=encoding,
        invalid_bytes=invalid_bytes.value if invalid_bytes is not None else None,
        bad_records=bad_records.value,
    )
    with _clear_errors(), reporter() as report:
        spec = TokenizerSpec() if tokenizer == "byte" else _file_spec(tokenizer)
        index = prepare(inputs, output, settings, tokenizer=spec, workers=workers, restart=restart, report=report)
    typer.echo(summary(index, output))


@app.command("inspect")
def inspect_command(
    folder: Annotated[str, typer.Argument(help="A prepared folder, or its s3:// URI.", metavar="DIR")],
    cache_dir: Annotated[Path | None, typer.Option(help="Where a copy from S3 goes.")] = None,
    sample: Annotated[int, typer.Option(min=0, help="Show this many tokens of the training text.")] = 400,
    verify: Annotated[bool, typer.Option("--verify", help="Compare every file with its sha256.")] = False,
) -> None:
    """Show what a prepared folder holds, and a sample of its text."""
    with _clear_errors():
        dataset = TokenDataset.open(folder, cache_dir, verify=verify)
        typer.echo(summary(dataset.index, folder))
        count = min(sample, dataset.tokens)
        if count and (dataset.folder / "tokenizer.json").is_file():
            spec = TokenizerSpec()
            if dataset.index.tokenizer == "file":
                spec = TokenizerSpec(kind="file", path=str(dataset.folder))
            tokens = np.empty(count, dtype=np.int64)
            dataset.read((dataset.tokens - count) // 2, tokens)
            typer.echo(f"\nfrom the middle of the training text:\n{TextEncoder.load(spec).decode(tokens)}")


def _file_spec(path: str) -> TokenizerSpec:
    check_scheme(path)
    try:
        return TokenizerSpec(kind="file", path=path)
    except ValidationError as error:
        raise DataError(f"--tokenizer {printable(path)!r}: {error.errors()[0]['msg']}") from error


def summary(index: Index, where: Path | str) -> str:
    """What was prepared, for people."""
    changed = describe(index.changed.model_dump(), index.first)
    held = index.held_out
    return "\n".join(
        [
            f"training   {index.documents:>12,} documents  {index.tokens:>15,} tokens  {index.bytes:>15,} bytes",
            f"held out   {held.documents:>12,} documents  {held.tokens:>15,} tokens  {held.bytes:>15,} bytes",
            f"left out   {describe(index.left_out.model_dump(), index.first)}",
            *([f"changed    {changed}"] if changed != "nothing" else []),
            f"tokenizer  {index.tokenizer}, {index.vocabulary_size:,} entries, sha256 {index.tokenizer_digest[:16]}",
            f"sources    {', '.join(index.sources)}",
            f"prepared   {printable(str(where))} ({len(index.shards)} shards, {index.dtype})",
        ]
    )


@contextmanager
def _clear_errors() -> Iterator[None]:
    """A mistake in what was given: one message, status 2."""
    try:
        yield
    except DataError as error:
        exit_with_mistake(printable(str(error)), reason=error.reason)
    except KeyboardInterrupt as error:
        typer.echo("stopped; the same command goes on from here", err=True)
        raise typer.Exit(EXIT_STOPPED) from error


if __name__ == "__main__":
    app()
