"""One table of a call's records, as a Parquet file that pandas and DuckDB read."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from atrous.errors import needing
from atrous.images.decode import atomic
from atrous.predict.batch import Outcome, shown

_ROWS = 10_000  # of a row group, held in memory


def indexed(outcomes: Iterable[Outcome], file: Path | None) -> Iterator[Outcome]:
    """Yields the outcomes, and writes a row for each into a Parquet file.

    The rows are in the order in which pictures are finished; `place` is a picture's number in the
    call. The file is whole or absent: a call that ends early leaves none.

    Args:
        outcomes: Of a call, those of kept output too.
        file: The file, or an address in a store; None: no file.

    Raises:
        AtrousError: pyarrow is missing.
    """
    if file is None:
        yield from outcomes
        return
    with needing("--index", "cloud"):
        import pyarrow
        from pyarrow.parquet import ParquetWriter
    text, number = pyarrow.string(), pyarrow.int32()
    columns = {
        "place": pyarrow.int64(),
        "input": text,
        "height": number,
        "width": number,
        "areas": pyarrow.map_(text, pyarrow.float64()),
        "confidence": pyarrow.float64(),
        "precision": text,
        "labels": text,
        "overlay": text,
        "error": text,
        "code": text,
    }
    schema = pyarrow.schema(list(columns.items()))
    rows: list[dict[str, Any]] = []
    with atomic(file) as temporary, ParquetWriter(temporary, schema) as writer:

        def flush() -> None:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
            rows.clear()

        for outcome in outcomes:
            line = shown(outcome)
            line["height"], line["width"] = line.pop("size", (None, None))
            areas = line.pop("areas", None)
            rows.append({"place": outcome.place, **line, "areas": areas and list(areas.items())})
            if len(rows) == _ROWS:
                flush()
            yield outcome
        flush()
