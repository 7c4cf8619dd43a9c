"""Dagster's own settings: what an older dagster.yaml lacks, and whether the database that it names answers."""

import re
from collections.abc import Iterator
from pathlib import Path

from refresh_pipeline.settings import secret, shipped

# How long a command that somebody waits for gives the server, in seconds.
PATIENCE = 5
# The keys that `storage` replaces.
STORAGES = ("event_log_storage", "run_storage", "schedule_storage")
# What SQLAlchemy allows in front of an address, and the driver does not.
DIALECT = re.compile(r"^postgres(ql)?(\+\w+)?://")


def missing_instance_keys(file: Path) -> list[str]:
    """The keys of the shipped dagster.yaml that an older one lacks, nested ones with dots; none where there is no file.

    Raises:
        ValueError: the file is no YAML mapping.
    """
    import yaml  # noqa: PLC0415 (a wrong request is answered before it)

    if not file.exists():
        return []
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{file}: not readable as YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file}: found {type(found).__name__}, allowed: a mapping as in {shipped('dagster.yaml')}")
    wanted = yaml.safe_load(shipped("dagster.yaml").read_text(encoding="utf-8"))
    if "storage" in found:
        # One storage for all of Dagster's records replaces those of each kind; Dagster refuses both together.
        wanted = {name: value for name, value in wanted.items() if name not in STORAGES}
    return list(_missing(wanted, found))


def require_database(file: Path) -> None:
    """Ask the PostgreSQL that a dagster.yaml names once; does nothing where it names none.

    Dagster itself asks for 12 s or more, and prints a warning each time.

    Raises:
        psycopg2.OperationalError: the server does not answer, or refuses the user.
    """
    if not (url := _postgres_url(file)):
        return
    try:
        import psycopg2  # pyright: ignore[reportMissingModuleSource, reportMissingImports]  # noqa: PLC0415 (an extra)
    except ImportError:
        # Dagster says itself which package is missing.
        return
    psycopg2.connect(DIALECT.sub("postgresql://", url), connect_timeout=PATIENCE).close()


def _postgres_url(file: Path) -> str:
    import yaml  # noqa: PLC0415 (a wrong request is answered before it)

    try:
        storage = yaml.safe_load(file.read_text(encoding="utf-8"))["storage"]
        url = (storage.get("postgres") or storage["custom"]["config"])["postgres_url"]
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        # No PostgreSQL, or a file that Dagster refuses in its own words.
        return ""
    return (secret(url["env"]) or "") if isinstance(url, dict) and "env" in url else str(url)


def _missing(wanted: dict[str, object], found: dict[str, object], prefix: str = "") -> Iterator[str]:
    for name, value in wanted.items():
        if name not in found:
            yield f"{prefix}{name}"
        elif isinstance(value, dict):
            inner = found[name]
            # Another class, such as PostgreSQL's storage, has keys of its own.
            if isinstance(inner, dict) and inner.get("class") == value.get("class"):
                yield from _missing(value, inner, f"{prefix}{name}.")
