"""Dagster's own settings: what an older dagster.yaml lacks of the shipped one."""

from collections.abc import Iterator
from pathlib import Path

from refresh_pipeline.settings import shipped


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
        # One storage for all of Dagster's records replaces the one of events; Dagster refuses both together.
        del wanted["event_log_storage"]
    return list(_missing(wanted, found))


def _missing(wanted: dict[str, object], found: dict[str, object], prefix: str = "") -> Iterator[str]:
    for name, value in wanted.items():
        if name not in found:
            yield f"{prefix}{name}"
        elif isinstance(value, dict):
            inner = found[name]
            # Another class, such as PostgreSQL's storage, has keys of its own.
            if isinstance(inner, dict) and inner.get("class") == value.get("class"):
                yield from _missing(value, inner, f"{prefix}{name}.")
