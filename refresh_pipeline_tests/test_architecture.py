"""Which way imports go, who reads the environment, and how long a function may be: read from the source, not run."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from refresh_pipeline_tests.conftest import LONG

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
PACKAGE = Path(__file__).resolve().parents[1] / "refresh_pipeline"
TESTS = Path(__file__).resolve().parent
OURS = "refresh_pipeline"
LONGEST_BODY = 40

# From the top; a room may use the floors below it, and nothing beside it on its own floor.
FLOORS = (
    {"front_door", "notebook"},
    {"cli", "api", "client", "definitions"},
    {"orchestration"},
    {"monitoring", "streaming"},
    {"pipeline", "operations"},
    {"warehouse", "destinations"},
    {"files", "sources", "analytics", "instance", "market_files", "api_files"},
    {"duckdb_connection", "redaction", "extras"},
    {"market", "settings"},
)
# Only these may import Dagster, also through others.
WITH_DAGSTER = {"front_door", "cli", "definitions", "orchestration", "instance"}
PURE = ("market", "analytics")
# The standard library's ways to the network, the disk, the clock and other processes.
IMPURE = {"os", "pathlib", "shutil", "tempfile", "glob", "time", "socket", "http", "urllib", "ssl", "subprocess"}
IMPURE |= {"threading", "multiprocessing", "asyncio", "random", "secrets", "uuid", "logging", "sqlite3"}
# What a computation may stand on; everything else is somebody's neighbour.
LIBRARIES_OF_PURE = {"numpy", "pydantic", "yaml", "talib"}
CLOCKS = {"now", "utcnow", "today"}
ENVIRONMENT = {"environ", "environb", "getenv", "putenv", "unsetenv"}


@cache
def modules(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


@cache
def tree_of(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))


def named(module: Path) -> str:
    return str(module.relative_to(PACKAGE.parent))


@cache
def nodes_of(module: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree_of(module)))


@cache
def imports_of(module: Path) -> frozenset[str]:
    """Everything a module imports, at its head or later, as dotted names."""
    found: set[str] = set()
    for node in nodes_of(module):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def parts_of_ours(module: Path) -> set[str]:
    """The packages and root modules of ours that a module uses."""
    ours = [name.split(".") for name in imports_of(module) if name.split(".")[0] == OURS]
    return {name[1] for name in ours if len(name) > 1}


def functions(module: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in nodes_of(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body, its docstring left out."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def rooms() -> dict[str, list[Path]]:
    """The modules of each room: a package, or a module at the root."""
    found: dict[str, list[Path]] = {}
    for module in modules(PACKAGE):
        room = module.relative_to(PACKAGE).parts[0].removesuffix(".py")
        found.setdefault(room, []).append(module)
    del found["__init__"]
    return found


def test_every_room_stands_on_a_floor() -> None:
    assert set(rooms()) <= set().union(*FLOORS)


@pytest.mark.parametrize("room", rooms())
def test_imports_go_down(room: str) -> None:
    number = next(number for number, floor in enumerate(FLOORS) if room in floor)
    allowed = {room}.union(*FLOORS[number + 1 :])
    astray = {named(module): parts_of_ours(module) - allowed for module in rooms()[room]}
    assert {name: parts for name, parts in astray.items() if parts} == {}


# One process for all rooms: each import of the libraries takes a second.
IMPORTS_DAGSTER = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    found = [each for each in sys.modules if each.partition(".")[0].startswith("dagster")]
    if found:
        sys.exit(f"{name} imports {found[:5]}")
"""


def test_importing_a_room_imports_no_dagster() -> None:
    names = [dotted(module) for room in sorted(set(rooms()) - WITH_DAGSTER) for module in rooms()[room]]
    assert len(names) > 100
    command = [sys.executable, "-c", IMPORTS_DAGSTER, *names]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")


# The API reads and answers. What writes, fetches and draws is loaded when it is asked for, or never.
NOT_IN_THE_API = ("dagster", "httpx", "matplotlib", "pandas", "polars", "pyarrow", "refresh_pipeline.orchestration")
NOT_IN_THE_API += ("refresh_pipeline.warehouse.live", "refresh_pipeline.warehouse.warehouse", "rich")
NOT_IN_THE_API += ("refresh_pipeline.pipeline.export", "refresh_pipeline.sources.registry")
IMPORTED_BY_THE_API = "import sys, refresh_pipeline.api.serving; print(*sys.modules)"


def test_the_api_starts_without_what_writes_fetches_or_draws() -> None:
    command = [sys.executable, "-c", IMPORTED_BY_THE_API]
    loaded = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert {"refresh_pipeline.api.app", "duckdb", "numpy"} <= loaded
    assert loaded.intersection(NOT_IN_THE_API) == set()


@pytest.mark.parametrize("package", PURE)
def test_what_is_pure_knows_no_dagster_network_disk_or_clock(package: str) -> None:
    for module in modules(PACKAGE / package):
        roots = {name.split(".")[0] for name in imports_of(module)} - {OURS}
        # Data frames come and go through one door of their own.
        allowed = LIBRARIES_OF_PURE | ({"pandas"} if module.name == "dataframes.py" else set())
        foreign = roots - set(sys.stdlib_module_names) - allowed
        assert foreign | (roots & IMPURE) == set(), named(module)


@pytest.mark.parametrize("package", PURE)
def test_what_is_pure_opens_no_file_and_asks_no_clock(package: str) -> None:
    for module in modules(PACKAGE / package):
        for node in nodes_of(module):
            if isinstance(node, ast.Call):
                called = node.func
                name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
                assert name != "open", f"{named(module)}:{node.lineno}"
                assert name not in CLOCKS, f"{named(module)}:{node.lineno}"


def test_only_settings_reads_the_environment() -> None:
    readers = set()
    for module in modules(PACKAGE):
        names = {node.attr for node in nodes_of(module) if isinstance(node, ast.Attribute)}
        names |= {name.rpartition(".")[2] for name in imports_of(module)}
        if names & ENVIRONMENT or "pydantic_settings" in {name.split(".")[0] for name in imports_of(module)}:
            readers.add(named(module))
    assert readers == {"refresh_pipeline/settings.py"}


# Copies and restores of the file itself; everybody else goes by the warehouse's address and its place.
OF_THE_FILE = {"settings.py", "cli/operate.py", "cli/options.py", "operations/backup_retention.py"}
OF_THE_FILE |= {"operations/missing_warehouse.py"}


def test_nobody_takes_the_warehouse_for_a_file() -> None:
    """It may be a lake: whether it exists, what it is called and whether it changed is for its place to say."""
    path_of_it = r"\bsettings\.database\b|\bPath\((self\.|warehouse\.)?_?database\)|\bdatabase\.(exists|stat|is_file)\("
    own = {"warehouse/connection.py", "operations/backup.py", "operations/restore.py", "pipeline/export_duplicates.py"}
    astray = {
        str(module.relative_to(PACKAGE))
        for module in modules(PACKAGE)
        if re.search(path_of_it, module.read_text(encoding="utf-8"))
    }
    assert astray - own - OF_THE_FILE == set()


def test_duckdb_is_opened_in_one_place() -> None:
    openers = set()
    for module in modules(PACKAGE):
        source = module.read_text(encoding="utf-8")
        if re.search(r"duckdb\.(connect|sql|query|execute|default_connection)\b", source):
            openers.add(named(module))
        openers |= {named(module) for name in imports_of(module) if name in {"duckdb.connect", "duckdb.sql"}}
    assert openers == {"refresh_pipeline/duckdb_connection.py"}


def test_a_run_needs_no_pandas() -> None:
    users = {named(module) for module in modules(PACKAGE) if any(n.startswith("pandas") for n in imports_of(module))}
    # Data frames, the client and notebooks are doors of their own, which no run goes through.
    doors = ("analytics/dataframes.py", "client/__init__.py", "client/tables.py", "notebook.py")
    assert users == {named(PACKAGE / door) for door in doors}


def test_modules_do_not_import_one_another_in_circles() -> None:
    graph = {dotted(module): used_modules(module) for module in modules(PACKAGE)}
    for start in graph:
        circle = way_back(graph, start)
        assert circle == [], " -> ".join(circle)


def dotted(module: Path) -> str:
    parts = module.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def dotted_names() -> set[str]:
    return {dotted(each) for each in modules(PACKAGE)}


def used_modules(module: Path) -> set[str]:
    """The modules of ours that must be there before this one: imported at its head, not for types alone."""
    found: set[str] = set()
    for node in tree_of(module).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found & dotted_names()


def way_back(graph: dict[str, set[str]], start: str) -> list[str]:
    """The way from a module over its imports back to it, empty if there is none."""
    ways, seen = [[start]], set()
    while ways:
        way = ways.pop()
        for following in graph[way[-1]] - {way[-1]}:
            if following == start:
                return [*way, start]
            if following not in seen:
                seen.add(following)
                ways.append([*way, following])
    return []


def test_every_module_says_what_it_is_for() -> None:
    assert [named(each) for each in modules(PACKAGE) if not ast.get_docstring(tree_of(each))] == []


def test_every_public_function_and_class_says_what_it_does() -> None:
    silent = []
    for module in modules(PACKAGE):
        silent += [
            f"{named(module)}:{each.lineno} {each.name}"
            for each in public_definitions(tree_of(module))
            if not ast.get_docstring(each)
        ]
    assert silent == []


def is_overload(node: Definition) -> bool:
    return any(isinstance(each, ast.Name) and each.id == "overload" for each in node.decorator_list)


def public_definitions(scope: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    """What others can call: nothing private, nothing within a function, no further signature of a function."""
    for node in scope.body:
        if isinstance(node, Definition) and not node.name.startswith("_") and not is_overload(node):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node)


@pytest.mark.parametrize("folder", [PACKAGE, TESTS])
def test_no_function_is_longer_than_a_screen(folder: Path) -> None:
    long = {
        f"{module.relative_to(PACKAGE.parent)}:{function.lineno} {function.name}": body_lines(function)
        for module in modules(folder)
        for function in functions(module)
        if body_lines(function) > LONGEST_BODY
    }
    assert long == {}


def test_tests_use_real_neighbours() -> None:
    mocking = [
        str(module.relative_to(TESTS))
        for module in modules(TESTS)
        if any(name.startswith(("unittest.mock", "mock", "pytest_mock")) for name in imports_of(module))
    ]
    assert mocking == []


def test_the_long_files_exist() -> None:
    here = Path(__file__).parent
    assert [name for name in LONG if not (here / name).is_file()] == []
    assert len(set(LONG)) == len(LONG)


def test_the_story_is_told_in_the_order_of_the_assets() -> None:
    story = tree_of(PACKAGE / "orchestration" / "assets.py")
    steps = [node.name for node in ast.walk(story) if isinstance(node, ast.FunctionDef)]
    lines = [node.lineno for node in ast.walk(story) if isinstance(node, ast.FunctionDef)]
    assert steps == ["market_assets", "raw_candles", "enhanced_candles", "indicators", "exports", "uploads"]
    assert all(earlier < later for earlier, later in pairwise(lines))
