"""`refresh query`: it reads the warehouse by SQL and nothing else; it writes only the file that is asked for."""

from pathlib import Path

import duckdb
import pytest

from refresh_pipeline.warehouse.sql_query import QueryError, print_table, write_file
from refresh_pipeline_tests.project_folder import command


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "refresh.duckdb"
    path.parent.mkdir()
    with duckdb.connect(str(path)) as connection:
        connection.execute("create schema demo")
        connection.execute(
            "create table demo.raw_candles as select range as bar, range * 0.5 as close from range(1000)"
        )
    return path


def query(database: Path, *arguments: str) -> tuple[int, str]:
    result = command("query", *arguments, "--data-dir", str(database.parent))
    return result.exit_code, result.output


def test_rows_are_a_table_with_types(database: Path) -> None:
    code, text = query(database, "select bar, close from demo.raw_candles where bar = 7")
    assert code == 0
    assert "│     7 │" in text
    assert "int64" in text


def test_a_table_keeps_to_its_width_and_rows(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = ", ".join(f"close as a_long_name_{number}" for number in range(20))
    print_table(str(database), f"select {columns} from demo.raw_candles", width=80, most_rows=6, seconds=30)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "1000 rows (6 shown)" in lines[-2] + lines[-1]


def test_csv_has_a_header_and_every_row(database: Path) -> None:
    code, text = query(database, "select * from demo.raw_candles order by bar", "--csv")
    assert (code, len(text.splitlines())) == (0, 1001)
    assert text.splitlines()[:2] == ["bar,close", "0,0.0"]


def test_parquet_is_written_whole_over_an_older_file(database: Path, tmp_path: Path) -> None:
    file = tmp_path / "it's.parquet"
    file.write_text("older")
    assert query(database, "from demo.raw_candles -- all", "--parquet", str(file)) == (0, "")
    with duckdb.connect() as connection:
        rows = connection.execute("select count(*), sum(close) from read_parquet(?)", [str(file)]).fetchall()
    assert rows == [(1000, 249750.0)]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["it's.parquet"]


@pytest.mark.parametrize(
    "sql",
    [
        "drop table demo.raw_candles",
        "create table demo.other as select 1",
        "create temp table other as select 1",
        "insert into demo.raw_candles values (1, 2)",
        "select 1; drop table demo.raw_candles",
        "copy demo.raw_candles to 'stolen.csv'",
        "select 1) to 'stolen.csv' (format csv); --",
        "attach 'other.duckdb'",
        "set enable_external_access = true",
        "install httpfs",
        "call pragma_version()",
        "export database 'stolen'",
        "",
        "nonsense",
    ],
)
@pytest.mark.parametrize("option", [[], ["--csv"]])
def test_what_is_no_query_is_refused(sql: str, option: list[str], database: Path, tmp_path: Path) -> None:
    before = database.read_bytes()
    code, _ = query(database, sql, *option)
    assert code == 2
    assert database.read_bytes() == before
    assert not [path for path in Path.cwd().rglob("*") if path.name.startswith(("stolen", "other"))]


@pytest.mark.parametrize(
    "sql",
    [
        "from read_text('/etc/hostname')",
        "from '{folder}/secret.csv'",
        "from read_csv('{folder}/secret.csv')",
        "from glob('{folder}/*')",
        "from read_blob('{folder}/*')",
    ],
)
def test_no_other_file_is_read(sql: str, database: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("key\nhush-hush\n")
    for option in ([], ["--csv"], ["--parquet", str(tmp_path / "copy.parquet")]):
        code, text = query(database, sql.format(folder=tmp_path), *option)
        assert code == 2
        assert "hush-hush" not in text
        assert not (tmp_path / "copy.parquet").exists()


def test_a_query_ends_in_time(database: Path) -> None:
    code, text = query(
        database, "select sum(a.range * b.range) from range(1000000) a, range(1000000) b", "--seconds", "0.2"
    )
    assert code == 2
    assert "took more than 0.2 s" in " ".join(text.split())


def test_the_folder_for_a_file_must_be_there(database: Path, tmp_path: Path) -> None:
    (tmp_path / "in_the_way").write_text("")
    with pytest.raises(OSError, match="in_the_way"):
        write_file(str(database), "select 1", tmp_path / "in_the_way" / "x.csv", kind="csv", seconds=30)


def test_wrong_requests_say_what_to_do(database: Path, tmp_path: Path) -> None:
    assert "--csv and --parquet" in query(database, "select 1", "--csv", "--parquet", "x.parquet")[1]
    result = command("query", "select 1", "--data-dir", str(tmp_path / "nowhere"))
    assert result.exit_code == 2
    assert "refresh once creates it" in " ".join(result.output.split())
    with pytest.raises(QueryError, match="Did you mean"):
        print_table(str(database), "from demo.raw_candle", width=80, most_rows=4, seconds=30)
