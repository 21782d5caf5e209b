"""Texts out of Parquet files. Kept apart so that pyarrow is loaded only where there is Parquet to read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from photon_worker.data.findings import printable
from photon_worker.data.reading import Reading
from photon_worker.lifecycle.data_errors import DataError

_ROWS: Final = 1024


def row_group_sizes(path: str) -> list[int]:
    """Bytes of each row group of a Parquet file.

    Raises:
        DataError: It is no Parquet file, or cannot be read.
    """
    with _explained(printable(path)):
        metadata = _opened(path).metadata
        return [metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups)]


def rows(path: str, reading: Reading) -> Iterator[bytes]:
    """The texts of the column in the row groups of the piece; missing values are empty.

    Raises:
        DataError: It is no Parquet file, is damaged, or has no such column of text.
    """
    piece, field = reading.piece, reading.settings.text_field
    with _explained(piece.label):
        file = _opened(path)
        metadata = file.metadata
        first, stop = piece.start, metadata.num_row_groups if piece.stop is None else piece.stop
        counts = [metadata.row_group(number).num_rows for number in range(stop)]
        if sum(counts) != metadata.num_rows and stop == metadata.num_row_groups:
            raise ValueError(f"its row groups have {sum(counts)} rows, and its footer says {metadata.num_rows}")
        column, problem = _column(file.schema_arrow, field)
        if problem:
            for number in range(sum(counts[:first]), sum(counts)):
                reading.row = number + 1
                reading.bad(problem)
            if not sum(counts):
                reading.row = None
                reading.bad(problem)
            return
        reading.row = sum(counts[:first])
        for batch in file.iter_batches(batch_size=_ROWS, row_groups=list(range(first, stop)), columns=[column]):
            for raw in _values(batch, column):
                reading.row += 1
                text = b"" if raw is None else reading.utf8(raw)
                if text is not None:
                    yield text
        if reading.row != sum(counts):
            raise ValueError(f"{reading.row} rows were read, and its footer says {sum(counts)}")


def _column(schema: Any, field: str) -> tuple[str, str]:
    """The path of the column and what is wrong with it, if anything."""
    import pyarrow

    names = schema.names
    if names.count(field) > 1:
        return field, f"has {names.count(field)} columns named {field!r}: rename all but one"
    kind: Any = None
    if field in names:
        kind = schema.field(field).type
    else:
        top, *rest = field.split(".")
        if names.count(top) == 1:
            kind = schema.field(top).type
            for key in rest:
                if not pyarrow.types.is_struct(kind) or kind.get_field_index(key) < 0:
                    kind = None
                    break
                kind = kind.field(key).type
    if kind is None:
        there = ", ".join(map(ascii, names[:20]))
        return field, f"has no column {field!r} (it has {there}): name the one with the text by --text-field"
    value = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    if str(value) in _TEXT or pyarrow.types.is_fixed_size_binary(value):
        return field, ""
    return field, f"the column {field!r} holds no text but {kind}: see --text-field"


_TEXT: Final = {"string", "large_string", "string_view", "binary", "large_binary", "binary_view", "null"}


def _values(batch: Any, column: str) -> list[bytes | None]:
    """The values of a column of text, as bytes."""
    import pyarrow
    import pyarrow.compute

    if column in batch.schema.names:
        array = batch.column(column)
    else:
        top, *rest = column.split(".")
        array = pyarrow.compute.struct_field(batch.column(top), rest)
    if pyarrow.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if str(array.type) in ("string", "large_string", "string_view"):
        # As bytes: a value that is not UTF-8 must be named, not raise.
        array = array.cast(pyarrow.binary_view() if str(array.type) == "string_view" else pyarrow.large_binary())
    values: list[bytes | None] = array.to_pylist()
    return values


def _opened(path: str) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what pyarrow raises for the input ``name`` into one clear DataError."""
    import pyarrow

    try:
        yield
    except PermissionError as error:
        raise DataError(f"{name} cannot be read: Permission denied: change that, or --exclude it") from error
    except (pyarrow.ArrowException, OSError, MemoryError, ValueError, OverflowError) as error:
        said = " ".join(str(error).split())
        magic = "magic bytes not found" in said or "file size is" in said or "size is 0 bytes" in said
        problem = "is no Parquet file, or was cut short" if magic else "is a damaged Parquet file"
        raise DataError(f"{name} {problem}: {said[:300]}") from error
