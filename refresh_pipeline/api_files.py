"""The YAML files of API collections: where they are, which are loaded, and what somebody changed of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from refresh_pipeline.market.apis import ApiError, Collection, Override, duration, parse_collection
from refresh_pipeline.market.plain_yaml import YamlError, plain_yaml
from refresh_pipeline.market.suggestions import did_you_mean
from refresh_pipeline.settings import PACKAGE, Settings

CATALOG = PACKAGE / "market" / "catalog" / "apis"
OVERRIDES, CUSTOM = "overrides.yaml", "custom.yaml"


def load_collections(
    settings: Settings, names: Sequence[str] | None = None, named_by: str = "REFRESH_APIS"
) -> list[Collection]:
    """The collections of these names, or the enabled ones; a user's file wins over a shipped one of the same name.

    Args:
        settings: with the folders of the files.
        names: of the collections.
        named_by: the setting or option that gave the names, for errors.

    Raises:
        ApiError: a file is wrong or missing, or a collection is called as a market.
    """
    files = collection_files(settings)
    names = list(dict.fromkeys(settings.collection_names if names is None else names))
    for name in names:
        if name not in files:
            allowed = ", ".join(sorted(files))
            raise ApiError(f"{named_by}: found {name!r}, allowed: {allowed}{did_you_mean(name, files)}")
        if name in settings.market_names:
            raise ApiError(f"{named_by}: found {name!r}, which is a market as well; call the collection something else")
    return [_load(name, files[name]) for name in names]


def load_usable(settings: Settings) -> tuple[list[Collection], dict[str, ApiError]]:
    """The enabled collections whose files are right, and for each other one, by name, its error."""
    collections: list[Collection] = []
    faults: dict[str, ApiError] = {}
    for name in dict.fromkeys(settings.collection_names):
        try:
            collections += load_collections(settings, [name])
        except ApiError as error:
            faults[name] = error
    return collections, faults


def collection_files(settings: Settings) -> dict[str, Path]:
    """Every collection that could be enabled, by name."""
    folders = [CATALOG]
    if settings.apis_dir is not None:
        folders.append(settings.apis_dir.expanduser())
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise ApiError(f"REFRESH_APIS_DIR: found {missing[0]}, allowed: a folder that exists")
    files = {file.stem: file for folder in folders for file in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])}
    custom = custom_file(settings)
    return {**files, "custom": custom} if custom.is_file() else files


def custom_file(settings: Settings) -> Path:
    """The file of the collection `custom`, which commands write."""
    return settings.custom_apis


def overrides(settings: Settings, collection: str) -> dict[str, Override]:
    """What somebody changed of a collection's APIs, by API.

    Raises:
        ApiError: the file is wrong.
    """
    every = _read_overrides(settings).get(collection) or {}
    try:
        return {str(api): _override(changed) for api, changed in every.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise ApiError(f"{_overrides_file(settings)}: {collection}: {error}") from error


def write_override(settings: Settings, collection: str, api: str, changed: Override) -> None:
    """Change the interval or the switch of one API; the next tick goes by it."""
    content = {name: dict(apis) for name, apis in _read_overrides(settings).items()}
    entry = dict(content.setdefault(collection, {}).get(api) or {})
    if changed.every is not None:
        entry["every"] = f"{int(changed.every.total_seconds())}s"
    if changed.enabled is not None:
        entry["enabled"] = changed.enabled
    content[collection][api] = entry
    file = _overrides_file(settings)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(yaml.safe_dump(content, sort_keys=True), encoding="utf-8")
    part.replace(file)


def _override(changed: Mapping[str, object]) -> Override:
    enabled = changed.get("enabled")
    if enabled is not None and not isinstance(enabled, bool):
        raise ValueError(f"enabled: found {enabled!r}, allowed: true and false")
    return Override(duration(changed["every"]) if "every" in changed else None, enabled)


def _overrides_file(settings: Settings) -> Path:
    return settings.data / "apis" / OVERRIDES


def _read_overrides(settings: Settings) -> Mapping[str, Mapping[str, Mapping[str, object]]]:
    file = _overrides_file(settings)
    if not file.is_file():
        return {}
    try:
        content = plain_yaml(file.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, YamlError) as error:
        raise ApiError(f"{file}: found no readable YAML: {error}") from error
    if not isinstance(content, dict) or not all(_is_of_apis(apis) for apis in content.values()):
        raise ApiError(f"{file}: found no collections; allowed: collections, their APIs, and every or enabled of each")
    return content


def _is_of_apis(apis: object) -> bool:
    return isinstance(apis, dict) and all(isinstance(changed, dict) for changed in apis.values())


def _load(name: str, file: Path) -> Collection:
    try:
        collection = parse_collection(file.read_text(encoding="utf-8"), file.name)
    except (OSError, UnicodeDecodeError) as error:
        raise ApiError(f"{file}: found no readable text: {error}; allowed: a file in UTF-8") from error
    if collection.name != name:
        raise ApiError(f"{file.name}: name: found {collection.name!r}, allowed: {name!r}, as the file is called")
    return collection
