"""Files of stored payloads: one per API and format, newest last. Files of candles are `export`'s part."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb

from refresh_pipeline.market.apis import Collection
from refresh_pipeline.warehouse import snapshots
from refresh_pipeline.warehouse.warehouse import Warehouse

LAYER = "snapshots"
# What DuckDB calls each format; the value of `payload` is JSON in ndjson, and its text in the others.
FORMATS: Mapping[str, str] = {
    "ndjson": "format json",
    "parquet": "format parquet, compression zstd",
    "csv": "format csv",
}
COLUMNS = "api, fetched_at, seen_at, status, content_type, bytes"


def write(
    warehouse: Warehouse,
    collection: Collection,
    exports_dir: Path,
    apis: Sequence[str],
    formats: Sequence[str] | None = None,
) -> list[Path]:
    """Write the files of these APIs anew, those without a payload left out; gives their paths.

    Args:
        warehouse: where the payloads are.
        collection: whose APIs they are.
        exports_dir: the folder; files lie in `<collection>/snapshots/` below it.
        apis: ids of questions.
        formats: of FORMATS; those of the collection's YAML without them.
    """
    wanted = collection.exports if formats is None else formats
    if not wanted or not apis or not warehouse.exists:
        return []
    folder = exports_dir / collection.name / LAYER
    folder.mkdir(parents=True, exist_ok=True)
    with warehouse.reader() as connection:
        if not snapshots.has_tables(connection, collection.name):
            return []
        stored = {name for name, *_ in snapshots.counts(connection, collection.name)}
        return [
            _written(connection, collection.name, api, folder, kind) for api in apis if api in stored for kind in wanted
        ]


def _written(connection: duckdb.DuckDBPyConnection, collection: str, api: str, folder: Path, kind: str) -> Path:
    """A file under its name only once it is whole."""
    path = folder / f"{api}.{kind}"
    part = path.with_name(f".{path.name}.part")
    payload = "coalesce(try_cast(payload as json), to_json(payload)) as payload" if kind == "ndjson" else "payload"
    quoted = str(part).replace("'", "''")
    connection.execute(
        f'copy (select {COLUMNS}, {payload} from "{collection}".snapshots where api = $api order by fetched_at) '
        f"to '{quoted}' ({FORMATS[kind]})",
        {"api": api},
    )
    part.replace(path)
    return path
