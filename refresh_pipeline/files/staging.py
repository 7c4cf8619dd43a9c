"""Rows that are too many for memory, on their way into export files: Parquet files of a temporary folder, in order."""

import glob
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.files.columns import ColumnKind, kinds_of, plain_values, quoted, stored

TIME = "open_time"


@dataclass(slots=True)
class StagedTable:
    """Pieces of one table behind one another, each a file; `open_times` of all rows are kept in memory."""

    folder: Path
    pieces: list[tuple[Path, Mapping[str, ColumnKind]]] = field(default_factory=list)
    open_times: NDArray[np.datetime64] = field(default_factory=lambda: np.array([], dtype="datetime64[us]"))
    bytes: int = 0

    def add(self, connection: duckdb.DuckDBPyConnection, rows: Mapping[str, NDArray]) -> None:
        """Write one more piece; raises duckdb.Error where the disk is full."""
        plain = {name: plain_values(values) for name, values in rows.items()}
        path = self.folder / f"{len(self.pieces):06d}.parquet"
        listed = ", ".join(f"{stored(name, kind)} as {quoted(name)}" for name, kind in kinds_of(rows).items())
        connection.register("staged", plain)
        try:
            connection.execute(f"copy (select {listed} from staged) to ? (format parquet)", [str(path)])
        finally:
            connection.unregister("staged")
        self.pieces.append((path, kinds_of(rows)))
        self.open_times = np.concatenate([self.open_times, plain[TIME]])
        self.bytes += path.stat().st_size

    @property
    def kinds(self) -> dict[str, ColumnKind]:
        """The kind of each column over all pieces: where one has nulls among truths or whole numbers, numbers."""
        return {name: ColumnKind.of_all(kinds[name] for _, kinds in self.pieces) for name in self.pieces[0][1]}

    def source(self, names: Iterable[str]) -> str:
        """SQL for these columns of all rows, in order: one scan of neighbouring pieces whose columns agree."""
        chosen, kinds = list(names), self.kinds
        parts = []
        for _, group in groupby(self.pieces, key=lambda piece: [piece[1][name].letter for name in chosen]):
            paths = ", ".join(_literal(path) for path, _ in group)
            listed = ", ".join(f"{stored(name, kinds[name])} as {quoted(name)}" for name in chosen)
            parts.append(f"select {listed} from read_parquet([{paths}], hive_partitioning=false)")
        return f"({' union all '.join(parts)})"


def _literal(path: Path) -> str:
    # DuckDB takes a path for a pattern.
    escaped = glob.escape(str(path)).replace("'", "''")
    return f"'{escaped}'"
