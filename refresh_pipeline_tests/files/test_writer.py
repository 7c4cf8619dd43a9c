"""Export files: whole or not at all, exact, the same bytes for the same table."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pytest

from refresh_pipeline.destinations.hashes import dropbox_hash_of
from refresh_pipeline.files.atomic import sha256_of
from refresh_pipeline.files.reader import TableReader
from refresh_pipeline.files.writer import ExportError, TableWriter, Written, write_table
from refresh_pipeline.market.export_spec import Compression
from refresh_pipeline_tests.destinations.limits import largest_file

ENDINGS = ("csv", "parquet", "json", "feather", "csv.gz", "json.zst")
REPOSITORY = Path(__file__).resolve().parents[2]


def minutes(count: int) -> np.ndarray:
    return np.datetime64("2024-01-01T00:00", "us") + np.arange(count) * np.timedelta64(60, "s")


def table(rows: int = 3, seed: int = 1) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.choice(np.array(["up", "down", None], dtype=object), rows)
    return {"open_time": minutes(rows), "close": random.random(rows) * 1e5, "trend": labels}


def parquet_rows(path: Path) -> list[tuple]:
    with duckdb.connect(":memory:") as connection:
        connection.execute("set timezone = 'UTC'")
        return connection.execute("select * from read_parquet(?)", [str(path)]).fetchall()


def parquet_types(path: Path) -> list[str]:
    with duckdb.connect(":memory:") as connection:
        described = connection.execute("describe select * from read_parquet(?)", [str(path)]).fetchall()
    return [row[1] for row in described]


WRITE_ONE_ROW = """
import sys, numpy as np
from pathlib import Path
from refresh_pipeline.files.writer import write_table
columns = {
    "open_time": np.array(["2024-01-01T05:30"], dtype="datetime64[us]"), "trend": np.array(["up"], dtype=object)
}
for ending in ("csv", "parquet"):
    write_table(columns, Path(sys.argv[1]) / f"a.{ending}")
"""


def in_another_process(script: str, folder: Path, **environment: str) -> None:
    command = [sys.executable, "-c", script, str(folder)]
    subprocess.run(command, cwd=REPOSITORY, env=os.environ | environment, check=True)


def read_back(path: Path, like: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every cell of a file, in its own order of columns."""
    with TableReader() as reader:
        names = reader.names(path)
        return reader.read(path, {name: like[name].dtype.kind for name in names or like})


def rows_in(path: Path, column: str = "close") -> int:
    with TableReader() as reader:
        return len(reader.read(path, {column: "f"})[column])


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_csv_holds_iso_times_and_leaves_unknown_values_empty(tmp_path: Path) -> None:
    columns = {
        "open_time": np.array(["2024-01-01T05:30", "NaT"], dtype="datetime64[us]"),
        "close": np.array([1.1, np.nan]),
        "trend": np.array(['say "up", now', None], dtype=object),
    }
    path = tmp_path / "a.csv"
    write_table(columns, path)
    assert path.read_text() == 'open_time,close,trend\n2024-01-01T05:30:00Z,1.1,"say ""up"", now"\n,,\n'


def test_parquet_holds_times_in_utc_and_null_for_unknown_values(tmp_path: Path) -> None:
    columns = {
        "open_time": np.array(["2024-01-01T05:30", "NaT"], dtype="datetime64[us]"),
        "close": np.array([1.1, np.nan]),
        "trend": np.array(["up", None], dtype=object),
    }
    path = tmp_path / "a.parquet"
    write_table(columns, path)
    assert parquet_rows(path) == [(datetime(2024, 1, 1, 5, 30, tzinfo=UTC), 1.1, "up"), (None, None, None)]
    assert parquet_types(path) == ["TIMESTAMP WITH TIME ZONE", "DOUBLE", "VARCHAR"]


def test_parquet_keeps_the_bytes_of_numbers_apart_and_has_no_bloom_filters(tmp_path: Path) -> None:
    numbers = np.random.default_rng(1).random(1000)
    names = np.array(["BTC/USD", "ETH/USD"] * 500, dtype=object)
    written = write_table({"instrument": names, "close": numbers}, tmp_path / "x.parquet")
    listed = f"select encodings, bloom_filter_length from parquet_metadata('{written.path}')"
    with duckdb.connect() as connection:
        found = connection.execute(listed).fetchall()
    assert found == [("RLE_DICTIONARY", None), ("BYTE_STREAM_SPLIT", None)]


def test_times_are_utc_whatever_the_zone_of_the_machine(tmp_path: Path) -> None:
    in_another_process(WRITE_ONE_ROW, tmp_path, TZ="America/New_York")
    assert parquet_rows(tmp_path / "a.parquet") == [(datetime(2024, 1, 1, 5, 30, tzinfo=UTC), "up")]
    assert (tmp_path / "a.csv").read_text() == "open_time,trend\n2024-01-01T05:30:00Z,up\n"


def test_a_column_of_unknown_texts_stays_text(tmp_path: Path) -> None:
    write_table({"trend": np.full(3, None, dtype=object)}, tmp_path / "a.parquet")
    assert parquet_types(tmp_path / "a.parquet") == ["VARCHAR"]


def test_masked_values_are_unknown_values(tmp_path: Path) -> None:
    columns = {
        "open_time": np.ma.masked_array(minutes(2), mask=[False, True]),
        "close": np.ma.masked_array([1.5, 2.5], mask=[False, True]),
        "count": np.ma.masked_array([1, 2], mask=[False, True]),
        "fractal": np.ma.masked_array([True, False], mask=[False, True]),
        "trend": np.ma.masked_array(np.array(["up", "down"], dtype=object), mask=[False, True]),
    }
    write_table(columns, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().splitlines()[1:] == ["2024-01-01T00:00:00Z,1.5,1,true,up", ",,,,"]
    write_table(columns, tmp_path / "a.parquet")
    assert parquet_rows(tmp_path / "a.parquet")[1] == (None,) * 5
    assert parquet_types(tmp_path / "a.parquet")[2:4] == ["BIGINT", "BOOLEAN"]


def test_what_duckdb_fetches_is_what_is_written(tmp_path: Path) -> None:
    with duckdb.connect(":memory:") as connection:
        fetched = connection.sql(
            "select * from (values (timestamp '2024-01-01', 1.5::double, 'up'), (null, null, null)) "
            "as candles (open_time, close, trend)"
        ).fetchnumpy()
    write_table(fetched, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "open_time,close,trend\n2024-01-01T00:00:00Z,1.5,up\n,,\n"


def test_a_fraction_of_a_second_is_not_lost(tmp_path: Path) -> None:
    write_table({"known_at": np.array(["2024-01-01T00:00:00.25"], dtype="datetime64[us]")}, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "known_at\n2024-01-01T00:00:00.250000Z\n"


def test_every_double_reads_back_from_csv_as_itself_in_its_shortest_form(tmp_path: Path) -> None:
    bits = np.random.default_rng(7).integers(0, 2**64, size=20_000, dtype=np.uint64).view(np.float64)
    extremes = [0.0, -0.0, 5e-324, 1.7976931348623157e308, 0.1, 1e16, 1e22, np.inf, -np.inf]
    values = np.concatenate([bits[~np.isnan(bits)], np.round(bits[:100] % 1e5, 5), extremes])
    values = values[~np.isnan(values)]
    write_table({"close": values}, tmp_path / "a.csv")
    texts = (tmp_path / "a.csv").read_text().splitlines()[1:]
    read = np.array([float(text) for text in texts])
    assert (read.view(np.uint64) == values.view(np.uint64)).all()
    digits = [len(text.lower().partition("e")[0].strip("-").replace(".", "").strip("0")) for text in texts]
    fewest = [len(repr(float(text)).partition("e")[0].strip("-").replace(".", "").strip("0")) for text in texts]
    assert digits == fewest


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_same_table_gives_the_same_bytes(tmp_path: Path, ending: str) -> None:
    # Two row groups, so that the order in which threads finish could show.
    first = write_table(table(130_000), tmp_path / f"a.{ending}")
    with TableWriter() as writer:
        again = [writer.write(table(130_000), tmp_path / f"{number}.{ending}") for number in range(2)]
    assert {written.sha256 for written in again} == {first.sha256}
    assert write_table(table(130_000, seed=2), tmp_path / f"a.{ending}").sha256 != first.sha256


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_was_written_is_what_is_read_back(tmp_path: Path, ending: str) -> None:
    columns = table(5) | {"note": np.array(["one\ntwo", "", None, "a,b", '"'], dtype=object)}
    written = write_table(columns, tmp_path / "new" / "folder" / f"a.{ending}")
    assert written == Written(written.path, 5, written.path.stat().st_size, sha256_of(written.path))
    back = read_back(written.path, columns)
    assert [*back] == [*columns]
    for name, values in columns.items():
        np.testing.assert_array_equal(back[name], values)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_table_without_rows_is_a_file_without_rows(tmp_path: Path, ending: str) -> None:
    written = write_table(table(0), tmp_path / f"a.{ending}")
    assert (written.rows, rows_in(written.path)) == (0, 0)


def test_one_field_per_column_also_with_unusual_names(tmp_path: Path) -> None:
    write_table({'we"ird, näme': np.array([1.0]), "order": np.array([2.0])}, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [['we"ird, näme', "order"], ["1.0", "2.0"]]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({}, "no columns"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "'a': 2, 'b': 3"),
        ({"a": np.zeros(2), "A": np.ones(2)}, "found a, A"),
        ({"a": np.zeros(2, dtype=complex)}, "complex128"),
    ],
)
def test_what_is_no_table_is_refused_with_words(tmp_path: Path, columns: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        write_table(columns, tmp_path / "a.csv")
    assert names_in(tmp_path) == []


def test_an_unknown_ending_is_refused_with_the_allowed_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'.xlsx', allowed: .csv, .parquet"):
        write_table(table(), tmp_path / "a.xlsx")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_full_disk_leaves_the_previous_file_and_says_what_to_do(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    before = write_table(table(10), path)
    with TableWriter() as writer:
        with largest_file(50_000), pytest.raises(ExportError) as failure:
            writer.write(table(100_000), path)
        assert (rows_in(path), sha256_of(path)) == (10, before.sha256)
        assert names_in(tmp_path) == [path.name]
        assert writer.write(table(20), path).rows == 20
    message = str(failure.value)
    assert str(path) in message
    assert "about 2,400,000 bytes wanted" in message
    assert "make room" in message


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_folder_in_the_files_place_is_an_error_and_leaves_nothing_behind(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    path.mkdir()
    with pytest.raises(ExportError, match=path.name):
        write_table(table(), path)
    assert names_in(tmp_path) == [path.name]


def test_a_file_in_the_folders_place_is_an_export_error(tmp_path: Path) -> None:
    (tmp_path / "exports").write_text("")
    with pytest.raises(ExportError, match="exports"):
        write_table(table(), tmp_path / "exports" / "a.csv")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_holds_the_same_already_is_left_alone(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    assert write_table(table(), path).replaced
    before = path.stat().st_mtime_ns, path.stat().st_ino
    assert not write_table(table(), path).replaced
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
    assert names_in(tmp_path) == [path.name]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert write_table(table(), path).replaced


def test_the_file_that_is_replaced_is_kept_where_somebody_wants_it(tmp_path: Path) -> None:
    path, older = tmp_path / "a.csv", tmp_path / "older" / "a.1.csv"
    with TableWriter() as writer:
        writer.write(table(2), path, older=older)
        assert not older.exists()
        before = path.read_bytes()
        writer.write(table(2), path, older=older)
        assert not older.exists()
        writer.write(table(3), path, older=older)
    assert older.read_bytes() == before != path.read_bytes()


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd"])
def test_parquet_is_packed_as_asked(tmp_path: Path, compression: str) -> None:
    with TableWriter() as writer:
        writer.write(table(), tmp_path / "a.parquet", compression=Compression(compression))
    with duckdb.connect(":memory:") as connection:
        packed = connection.execute("select distinct compression from parquet_metadata(?)", [f"{tmp_path}/a.parquet"])
        assert packed.fetchall() == [("UNCOMPRESSED" if compression == "none" else compression.upper(),)]


def test_json_is_one_document_that_any_reader_takes(tmp_path: Path) -> None:
    columns = {"open_time": minutes(2), "close": np.array([1.5, np.nan]), "trend": np.array(["up", None], object)}
    write_table(columns, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == [
        {"open_time": "2024-01-01T00:00:00Z", "close": 1.5, "trend": "up"},
        {"open_time": "2024-01-01T00:01:00Z", "close": None, "trend": None},
    ]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_reader_never_sees_half_a_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    tables = [table(5_000, seed=seed) for seed in (1, 2)]
    whole = {write_table(columns, path).sha256 for columns in tables}
    seen: set[str] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(sha256_of(path))

    reader = threading.Thread(target=read)
    reader.start()
    with TableWriter() as writer:
        for number in range(20):
            writer.write(tables[number % 2], path)
    done.set()
    reader.join()
    assert seen
    assert seen <= whole


WRITE_FOR_EVER = """
import sys, numpy as np
from pathlib import Path
from refresh_pipeline.files.writer import TableWriter
columns = {f"c{number}": np.random.default_rng(number).random(200_000) for number in range(5)}
with TableWriter() as writer:
    while True:
        writer.write(columns, Path(sys.argv[1]))
"""


def killed_in_the_middle(path: Path) -> list[Path]:
    """What a writer leaves behind that is killed while its file is being written."""
    process = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(path)], cwd=REPOSITORY)
    while process.poll() is None:
        parts = list(path.parent.glob(".*.part"))
        if path.exists() and parts:
            process.send_signal(signal.SIGKILL)
            process.wait()
    return list(path.parent.glob(".*.part"))


def test_a_killed_writer_leaves_a_whole_file_and_the_next_write_clears_up(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    # The signal may come just after the file was finished.
    parts = next(filter(None, (killed_in_the_middle(path) for _ in range(10))))
    assert rows_in(path, "c0") == 200_000
    assert all(part.name.startswith(".a.csv.") for part in parts)
    for part in parts:
        os.utime(part, (time.time() - 120, time.time() - 120))
    write_table(table(), tmp_path / "b.csv")
    assert all(part.exists() for part in parts), "the parts of another file are not this one's to remove"
    write_table(table(), path)
    assert names_in(tmp_path) == ["a.csv", "b.csv"]


def test_the_part_of_a_writer_at_work_is_left_alone(tmp_path: Path) -> None:
    at_work = tmp_path / ".a.csv.12345678.part"
    at_work.write_text("half")
    write_table(table(), tmp_path / "a.csv")
    assert at_work.read_text() == "half"


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_missing_or_broken_file_is_an_error_that_says_so(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    with pytest.raises(ExportError, match="export it again"):
        rows_in(path)
    path.write_bytes(b"\xff\xfe\x00 not a table")
    with pytest.raises(ExportError, match="export it again"):
        rows_in(path)


def test_hashes_are_those_of_the_whole_file(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert sha256_of(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert dropbox_hash_of(tmp_path / "empty") == sha256_of(tmp_path / "empty")


@pytest.mark.parametrize("size", [1, 4 * 2**20 - 1, 4 * 2**20, 4 * 2**20 + 1, 9 * 2**20])
def test_the_content_hash_is_the_one_the_official_sdk_computes(tmp_path: Path, size: int) -> None:
    from dropbox.content_hash import content_hash  # noqa: PLC0415 - a quarter of a second, for this test alone

    content = np.random.default_rng(size).bytes(size)
    (tmp_path / "a").write_bytes(content)
    assert dropbox_hash_of(tmp_path / "a") == content_hash(content)


# ---- rows that are too many for memory


def pieces_of(columns: Mapping[str, np.ndarray], rows: int) -> Iterator[dict[str, np.ndarray]]:
    for first in range(0, len(columns["open_time"]), rows):
        yield {name: values[first : first + rows] for name, values in columns.items()}


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "csv.zst", "json", "json.gz", "parquet", "feather"])
@pytest.mark.parametrize("first_row", [0, 70])
def test_staged_rows_make_the_file_that_rows_in_memory_make(tmp_path: Path, ending: str, first_row: int) -> None:
    opens = np.datetime64("2024-01-01", "us") + np.arange(100) * np.timedelta64(1, "m")
    # As the warehouse gives them: truths are numbers in the piece that has a null.
    flags = np.array([np.nan, *([1.0, 0.0] * 50)])[:100]
    columns = {
        "open_time": opens,
        "close": np.where(np.arange(100) == 3, np.nan, np.arange(100) / 7),
        "is_up": flags,
        "trend": np.array(["up", None] * 50, dtype=object),
        "count": np.arange(100),
    }
    pieces = list(pieces_of(columns, 30))
    pieces[1] = {**pieces[1], "is_up": pieces[1]["is_up"].astype(bool)}
    names = {"when": "open_time", **{name: name for name in list(columns)[1:]}}
    wanted = {theirs: columns[ours][first_row:] for theirs, ours in names.items()}
    (tmp_path / "it's [staged]").mkdir()
    with TableWriter() as writer:
        staged = writer.stage(pieces, tmp_path / "it's [staged]")
        written = writer.write_staged(staged, names, tmp_path / f"staged.{ending}", first_row=first_row)
        plain = writer.write(wanted, tmp_path / f"plain.{ending}")
    assert written.rows == plain.rows == 100 - first_row
    if ending.startswith(("csv", "json")):
        assert written.sha256 == plain.sha256
    with TableReader() as reader:
        kinds = {name: values.dtype.kind for name, values in wanted.items()}
        one, other = (reader.read(each.path, kinds) for each in (written, plain))
    for name in wanted:
        np.testing.assert_array_equal(one[name].astype(str), other[name].astype(str))


def test_staged_rows_take_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refresh_pipeline.files.writer.MEMORY", "64MB")
    monkeypatch.setattr("refresh_pipeline.files.writer.CELLS_A_GROUP", 100_000)
    rows = 2_048
    opens = np.datetime64("2024-01-01", "us") + np.arange(12 * rows) * np.timedelta64(1, "m")

    def pieces() -> Iterator[dict[str, np.ndarray]]:
        for number in range(12):
            values = {f"c{name}": np.random.default_rng(number).random(rows) for name in range(400)}
            yield {"open_time": opens[number * rows : (number + 1) * rows], **values}

    (tmp_path / "staged").mkdir()
    with TableWriter() as writer:
        staged = writer.stage(pieces(), tmp_path / "staged")
        names = {name: name for name in staged.kinds}
        written = writer.write_staged(staged, names, tmp_path / "a.parquet")
    # 79 MB of numbers.
    assert written.rows == 12 * rows
