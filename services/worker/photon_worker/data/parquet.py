"""Texts out of Parquet files. Kept apart so that pyarrow is loaded only where there is Parquet to read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from photon_worker.data.errors import DataError


def row_group_sizes(path: str) -> list[int]:
    """Bytes of each row group of a Parquet file.

    Raises:
        DataError: It is no Parquet file.
    """
    metadata = _opened(path, path).metadata
    return [metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups)]


def rows(path: str, uri: str, field: str, start: int, stop: int | None) -> Iterator[bytes]:
    """The texts of column ``field`` in row groups [start, stop); missing values are empty.

    Raises:
        DataError: It is no Parquet file, or has no such column of text.
    """
    file = _opened(path, uri)
    names = file.schema_arrow.names
    if field not in names:
        raise DataError(
            f"{uri} has no column {field!r} (it has {', '.join(map(repr, names))}): "
            "name the one with the text by --text-field"
        )
    kind = str(file.schema_arrow.field(field).type)
    if kind not in {"string", "large_string", "string_view"}:
        raise DataError(f"{uri}: the column {field!r} holds no text but {kind}: see --text-field")
    groups = range(start, stop if stop is not None else file.metadata.num_row_groups)
    for batch in file.iter_batches(batch_size=1024, row_groups=list(groups), columns=[field]):
        for text in batch.column(0).to_pylist():
            yield b"" if text is None else text.encode()


def _opened(path: str, uri: str) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{uri} is no Parquet file: {error}") from error
