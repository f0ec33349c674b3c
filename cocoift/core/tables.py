"""Reading Parquet: whatever is wrong with a file, one error names the file and the fix."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from cocoift.core.files import DataError

# What Arrow raises for files that are absent, truncated, damaged or have other columns or types,
# and msgspec for rows of another shape.
DAMAGED = (OSError, KeyError, UnicodeDecodeError, msgspec.MsgspecError, pa.ArrowException)
RUN_MERGE, RUN_SETUP = "run notebook 02_merge", "run notebook 00_setup again"


@contextmanager
def reading(path: Path, *, fix: str = RUN_MERGE) -> Iterator[None]:
    """Turn the errors of reading `path` in the block into `DataError`, which names it and `fix`."""
    try:
        yield
    except DAMAGED as error:
        absent = isinstance(error, FileNotFoundError)
        reason = "no such file" if absent else str(error).partition("\n")[0]
        raise DataError(f"{path}: {reason}; {fix}") from error


def read_table(
    path: Path, schema: pa.Schema | None = None, *, fix: str = RUN_MERGE, **options: Any
) -> pa.Table:
    """Return a Parquet file as a table; `options` are `pq.read_table`'s.

    Texts are checked to be UTF-8, and the columns to be those of `schema`, if given.  Raises
    `DataError` as `reading` does, and for a column that is absent, of another type, or has nulls
    that the schema forbids.
    """
    with reading(path, fix=fix):
        table = pq.read_table(path, **options)
        table.validate(full=True)
    if schema is not None:
        if not options.get("columns") and table.column_names != schema.names:
            raise _other_columns(path, fix)
        _check(path, table, schema, fix)
    return table


def read_batches(
    path: Path,
    schema: pa.Schema,
    *,
    file: pq.ParquetFile | None = None,
    fix: str = RUN_MERGE,
    **options: Any,
) -> Iterator[pa.RecordBatch]:
    """Yield a Parquet file of this schema batch by batch; `options` are `iter_batches`'.

    `file` is the file if it is already open.  Raises `DataError` as `read_table` does.
    """
    with reading(path, fix=fix):
        file = file or pq.ParquetFile(path)
        if file.schema_arrow.names != schema.names:
            raise _other_columns(path, fix)
        for batch in file.iter_batches(**options):
            batch.validate(full=True)
            _check(path, batch, schema, fix)
            yield batch


def _check(path: Path, found: pa.Table | pa.RecordBatch, schema: pa.Schema, fix: str) -> None:
    for name, column in zip(found.schema.names, found.columns, strict=True):
        if name not in schema.names:
            raise _other_columns(path, fix)
        wanted = schema.field(name)
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if kind != wanted.type and (kind, wanted.type) != (pa.large_string(), pa.string()):
            raise DataError(f"{path}: column {name} is {kind}, not {wanted.type}; {fix}")
        if column.null_count and not wanted.nullable:
            raise DataError(f"{path}: column {name} has {column.null_count} nulls; {fix}")


def _other_columns(path: Path, fix: str) -> DataError:
    return DataError(f"{path}: not the columns of this version; {fix}")


def count_rows(path: Path, *, fix: str = RUN_MERGE) -> int:
    """Return the rows of a Parquet file from its footer; raises `DataError` as `reading` does."""
    with reading(path, fix=fix):
        return pq.read_metadata(path).num_rows
