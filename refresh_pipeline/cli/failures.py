"""How commands end at an interrupt, and at errors that a user, a disk or another program can cause: one line each.

What is not listed here is a fault of the program and keeps its traceback.
"""

import errno
import re
from collections.abc import Iterator

import typer
from typer.core import TyperGroup

from refresh_pipeline.cli.console import err, print_error

SOME_FAILED, WRONG_REQUEST, INTERRUPTED = 1, 2, 130
INTERRUPTED_TEXT = "Interrupted. Nothing stored is lost: run the command again to continue."
FULL = "The disk is full: make room (refresh maintain helps), then run the command again. Nothing stored is lost."
# Phrases of SQLite and DuckDB, and the sentence for each.
DISK_FULL = ("database or disk is full", "disk i/o error", "no space left on device", "disk quota exceeded")
DAMAGED = (
    "malformed",
    "not a database",
    "no such table",
    "corrupt",
    "checksum",
    "failed to deserialize",
    "no such column",
)
REFUSED = ("readonly database", "unable to open database file", "permission denied", "read-only file system")
UNSET = re.compile(r'environment variable "(\w+)" which is not set')
# Modules whose errors are about their files.
SQLITE, DUCKDB = ("sqlite3", "sqlalchemy."), ("duckdb", "_duckdb")


class CommandGroup(TyperGroup):
    """The commands, with one line where one ends early."""

    def invoke(self, ctx: typer.Context) -> object:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Run the command; see the module's docstring."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            err.print(INTERRUPTED_TEXT, markup=False, highlight=False)
            raise typer.Exit(INTERRUPTED) from None
        except (typer.Exit, typer.Abort):
            # The command has said why already.
            raise
        except Exception as error:
            ending = ending_of(error)
            if ending is None:
                raise
            message, code = ending
            print_error(message)
            raise typer.Exit(code) from None


def ending_of(error: BaseException) -> tuple[str, int] | None:
    """The sentence and the exit code for an error; None where the program itself is at fault.

    >>> ending_of(PermissionError(13, "Permission denied", "/data/refresh.duckdb"))
    ('/data/refresh.duckdb: Permission denied; give this user the right, or choose another --data-dir.', 1)
    >>> ending_of(KeyError("x"))
    """
    for cause in _causes(error):
        if sentence := _sentence(cause):
            return sentence, WRONG_REQUEST if _is_wrong_request(cause) else SOME_FAILED
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what it was raised from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_wrong_request(error: BaseException) -> bool:
    return any(kind.__name__ in {"MarketError", "SettingsError", "DataFolderBusy"} for kind in type(error).__mro__)


def _sentence(error: BaseException) -> str:
    kind, text = type(error), " ".join(str(error).split())
    if _is_wrong_request(error) or kind.__name__ in {"WarehouseBusy", "WarehouseUnreadable"}:
        return str(error)
    if kind.__name__ == "DagsterPostgresException" or kind.__module__.startswith("psycopg2"):
        return _of_postgres(error)
    if kind.__module__.startswith(SQLITE):
        return _of_file(text.partition(" [SQL:")[0], "Dagster's files are", "restore a backup with refresh restore")
    if kind.__module__.startswith(DUCKDB):
        return _of_file(text, "The warehouse is", "restore a backup with refresh restore")
    if kind.__module__.startswith("dagster.") and kind.__name__ in {"DagsterInvalidConfigError", "DagsterYamlError"}:
        return _of_instance_file(text)
    return sentence_of(error) if isinstance(error, OSError) else ""


def _of_instance_file(text: str) -> str:
    if unset := UNSET.search(text):
        return f"dagster.yaml reads {unset[1]}, which is not set; set it in .env or in the environment."
    # Dagster lists every key that it knows before it says what is wrong.
    return f"dagster.yaml cannot be used: {(text.partition('Error 1: ')[2] or text)[:300]}"


def _of_postgres(error: BaseException) -> str:
    """Why Dagster's database does not answer; the driver's error, the innermost, names server and port alone."""
    reason = " ".join(str([*_causes(error)][-1]).split())
    return f"Dagster's PostgreSQL does not answer ({reason[:200]}); start it, or correct REFRESH_POSTGRES_URL."


def _of_file(text: str, files: str, remedy: str) -> str:
    lower = text.lower()
    if any(phrase in lower for phrase in DISK_FULL):
        return FULL
    if any(phrase in lower for phrase in REFUSED):
        return f"{files} not writable ({text[:200]}); give this user the right, or choose another --data-dir."
    if any(phrase in lower for phrase in DAMAGED):
        return f"{files} damaged ({text[:200]}); {remedy}."
    if "database is locked" in lower:
        return f"{files} in use by another process ({text[:200]}); run the command again."
    return ""


def sentence_of(error: OSError) -> str:
    """What a refusal of the operating system means and what to do; empty where this program does not know.

    >>> sentence_of(OSError(errno.EROFS, "Read-only file system", "/data"))
    '/data: Read-only file system; make it writable, or choose another --data-dir.'
    """
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return FULL
    if error.errno == errno.EROFS and error.filename:
        return f"{error.filename}: {error.strerror}; make it writable, or choose another --data-dir."
    if error.errno in {errno.EACCES, errno.EPERM} and error.filename:
        return f"{error.filename}: {error.strerror}; give this user the right, or choose another --data-dir."
    if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST} and error.filename:
        return f"{error.filename}: {error.strerror}; check the path."
    return ""
