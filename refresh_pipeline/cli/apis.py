"""The commands `refresh apis ...`: API snapshots, listed, asked and shown."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refresh_pipeline.cli.console import grid, out, print_error, print_line, print_table, print_verbatim
from refresh_pipeline.cli.options import (
    DONE,
    SOME_FAILED,
    DataDirOption,
    DryRunOption,
    JsonOption,
    VerboseOption,
    warehouse_errors,
    wrong_requests,
)
from refresh_pipeline.market.suggestions import did_you_mean

if TYPE_CHECKING:
    from refresh_pipeline.market.apis import ApiQuestion, Collection
    from refresh_pipeline.settings import Settings
    from refresh_pipeline.warehouse.snapshots import ApiStatus, Snapshot
    from refresh_pipeline.warehouse.warehouse import Warehouse

CollectionOption = Annotated[
    str | None, typer.Option("--collection", "-c", help="Use these collections (comma list) instead of REFRESH_APIS.")
]


def list_apis(
    *, collection: CollectionOption = None, as_json: JsonOption = False, data_dir: DataDirOption = None
) -> None:
    """List the APIs of the collections: interval, last outcome, and when each is due."""
    with wrong_requests():
        settings, collections = _chosen(collection, data_dir, or_all=True)
        rows = _rows(settings, collections)
    if as_json:
        out.print_json(json.dumps(rows), highlight=False)
        return
    table = grid("api", "category", "every", "last outcome", "due", wrapped=("api", "category", "last outcome"))
    for row in rows:
        state = row["outcome"] or ("never asked" if row["enabled"] else "off")
        table.add_row(row["api"], row["category"], row["every"], state, row["due_at"] or "")
    print_table(out, table)
    enabled = ", ".join(settings.collection_names) or "none"
    print_line(f"Collections that are refreshed (REFRESH_APIS): {enabled}.")


def once(
    apis: Annotated[list[str] | None, typer.Argument(help="Ask these APIs; without any, all that are due.")] = None,
    *,
    collection: CollectionOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Ask also APIs that are not due.")] = False,
    verbose: VerboseOption = 0,
    data_dir: DataDirOption = None,
) -> None:
    """Ask APIs now and store what changed."""
    from refresh_pipeline.cli.console import err, log_on

    with wrong_requests():
        settings, collections = _chosen(collection, data_dir)
        wanted = _questions(collections, apis or [])
    failed = False
    with log_on(err, verbose), warehouse_errors():
        for one in collections:
            names = [question.id for question in wanted if question in one.questions]
            failed |= _ask(settings, one, names if apis else None, everything=everything)
    raise typer.Exit(SOME_FAILED if failed else DONE)


def show(
    api: Annotated[str, typer.Argument(help="The API, as `refresh apis list` names it.")],
    *,
    history: Annotated[int, typer.Option(help="The number of payloads, newest first.", min=1)] = 1,
    collection: CollectionOption = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Show the newest payloads of one API."""
    with wrong_requests():
        settings, collections = _chosen(collection, data_dir, or_all=True)
        [question] = _questions(collections, [api])
        [one] = [each for each in collections if question in each.questions]
    with warehouse_errors():
        payloads = _payloads(settings, one, question.id, history)
    if not payloads:
        print_error(f"{question.id}: found no payload; ask for one: refresh apis once {question.id} -c {one.name}")
        raise typer.Exit(SOME_FAILED)
    for payload in payloads:
        if as_json:
            out.print_json(json.dumps(_described(payload)), highlight=False)
        else:
            print_line(
                f"{payload.fetched_at:%Y-%m-%d %H:%M:%S} to {payload.seen_at:%Y-%m-%d %H:%M:%S} UTC, {payload.url_used}"
            )
            print_verbatim(payload.payload)


def files(
    apis: Annotated[list[str] | None, typer.Argument(help="Write these APIs; without any, all.")] = None,
    *,
    formats: Annotated[
        str, typer.Option("--format", help="ndjson, parquet, csv (comma list).", metavar="FORMATS")
    ] = "ndjson",
    collection: CollectionOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Write the stored payloads of APIs into export files, one per API."""
    from refresh_pipeline.pipeline import api_exports
    from refresh_pipeline.warehouse.warehouse import Warehouse

    with wrong_requests():
        settings, collections = _chosen(collection, data_dir)
        wanted = _questions(collections, apis or []) or [one for each in collections for one in each.questions]
        kinds = [part.strip() for part in formats.split(",") if part.strip()]
        if unknown := [kind for kind in kinds if kind not in api_exports.FORMATS]:
            raise ValueError(f"--format: found {unknown[0]!r}, allowed: {', '.join(api_exports.FORMATS)}")
    with warehouse_errors():
        for one in collections:
            names = [question.id for question in wanted if question in one.questions]
            for path in api_exports.write(Warehouse(settings.warehouse), one, settings.exports_dir, names, kinds):
                print_line(str(path))


def import_catalogue(
    file: Annotated[Path, typer.Argument(help="The tracker's catalogue, in JSON.")],
    *,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the collection `custom`.")] = False,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Bring a catalogue of APIs in as the collection `custom`, without its keys."""
    from refresh_pipeline.api_files import custom_file
    from refresh_pipeline.market.api_import import import_catalogue as imported
    from refresh_pipeline.settings import load_settings

    with wrong_requests():
        target = custom_file(load_settings(data_dir=data_dir))
        if target.exists() and not (replace or dry_run):
            raise ValueError(f"found {target}; to write it anew, add --replace")
        text, report = imported(file.read_text(encoding="utf-8", errors="replace"), "custom", file.name)
    for line in report.lines:
        print_line(line)
    if not dry_run:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        print_line(f"written: {target}; refresh up asks its APIs from its next tick on")


def export(*, collection: CollectionOption = None, data_dir: DataDirOption = None) -> None:
    """Print the APIs as a catalogue in JSON; keys are masked."""
    from refresh_pipeline.market.api_import import export_catalogue

    with wrong_requests():
        _, collections = _chosen(collection, data_dir, or_all=True)
    print_verbatim(export_catalogue([question for each in collections for question in each.questions]))


def _chosen(names: str | None, data_dir: str | None, *, or_all: bool = False) -> "tuple[Settings, list[Collection]]":
    """The settings and the collections that are meant; all there are where REFRESH_APIS is empty and `or_all`."""
    from refresh_pipeline.api_files import collection_files, load_collections
    from refresh_pipeline.settings import load_settings

    settings = load_settings(enabled_collections=names, data_dir=data_dir)
    # Names that were given stand for themselves alone, without the collection that is enabled by its file.
    named = [name.strip() for name in settings.enabled_collections.split(",") if name.strip()]
    files = collection_files(settings)
    if wanted := named if names else list(files) if or_all and not named else settings.collection_names:
        return settings, load_collections(settings, wanted, "--collection" if names else "REFRESH_APIS")
    raise ValueError(f"REFRESH_APIS: found no collection, allowed: {', '.join(sorted(files))}; or name one with -c")


def _questions(collections: "Sequence[Collection]", names: Sequence[str]) -> "list[ApiQuestion]":
    """The questions by their names, or by the name of their API."""
    every = [question for collection in collections for question in collection.questions]
    chosen = [question for question in every if question.id in names or question.base in names]
    known = {name for question in every for name in (question.id, question.base)}
    if unknown := [name for name in names if name not in known]:
        hint = did_you_mean(unknown[0], sorted(known))
        allowed = ", ".join(question.id for question in every)
        raise ValueError(f"API: found {unknown[0]!r}, allowed: {allowed}{hint}")
    return chosen


def _ask(settings: "Settings", collection: "Collection", names: Sequence[str] | None, *, everything: bool) -> bool:
    """Ask the named questions, or those that are due; whether one failed."""
    from refresh_pipeline.api_files import overrides
    from refresh_pipeline.market.apis import overridden
    from refresh_pipeline.pipeline import api_exports
    from refresh_pipeline.pipeline.api_snapshots import due, refresh
    from refresh_pipeline.settings import secret
    from refresh_pipeline.warehouse.outcomes import Outcome
    from refresh_pipeline.warehouse.warehouse import Warehouse

    now, warehouse = datetime.now(UTC), Warehouse(settings.warehouse)
    changed = overrides(settings, collection.name)
    if names is None:
        statuses = {} if everything else _statuses(warehouse, collection)
        questions = due(collection, statuses, now, changed)
    else:
        questions = [overridden(question, changed) for question in collection.questions if question.id in names]
    results = refresh(warehouse, collection, questions, now, secret, limits_dir=settings.limits_dir)
    stored = [name for name, attempt in results.items() if attempt.outcome is Outcome.updated]
    api_exports.write(warehouse, collection, settings.exports_dir, stored)
    for name, attempt in results.items():
        print_line(
            f"{collection.name}/{name}: {attempt.outcome.value}" + (f": {attempt.reason}" if attempt.reason else "")
        )
    return any(attempt.outcome is Outcome.failed for attempt in results.values())


@contextmanager
def _reading(warehouse: "Warehouse", collection: "Collection") -> Iterator[Any]:
    """A connection to read a collection with; None before its first refresh."""
    from refresh_pipeline.warehouse.snapshots import has_tables

    if not warehouse.exists:
        yield None
        return
    with warehouse.reader() as connection:
        yield connection if has_tables(connection, collection.name) else None


def _statuses(warehouse: "Warehouse", collection: "Collection") -> "Mapping[str, ApiStatus]":
    from refresh_pipeline.warehouse.snapshots import statuses

    with _reading(warehouse, collection) as connection:
        return statuses(connection, collection.name) if connection else {}


def _payloads(settings: "Settings", collection: "Collection", api: str, count: int) -> "list[Snapshot]":
    from refresh_pipeline.warehouse.snapshots import history
    from refresh_pipeline.warehouse.warehouse import Warehouse

    with _reading(Warehouse(settings.warehouse), collection) as connection:
        return history(connection, collection.name, api, count) if connection else []


def _rows(settings: "Settings", collections: "Sequence[Collection]") -> list[dict[str, Any]]:
    from refresh_pipeline.api_files import overrides
    from refresh_pipeline.market.apis import overridden
    from refresh_pipeline.warehouse.warehouse import Warehouse

    rows, warehouse = [], Warehouse(settings.warehouse)
    for collection in collections:
        statuses, changed = _statuses(warehouse, collection), overrides(settings, collection.name)
        for question in collection.questions:
            shown = overridden(question, changed)
            rows.append({"collection": collection.name, **_row(shown, statuses.get(question.id))})
    return rows


def _row(question: "ApiQuestion", status: "ApiStatus | None") -> dict[str, Any]:
    from refresh_pipeline.market.freshness import short_duration

    return {
        "api": question.id,
        "name": question.api.name,
        "category": question.api.category,
        "url": question.api.url,
        "every": short_duration(question.api.every.total_seconds()),
        "enabled": question.api.enabled,
        "needs": question.variables,
        "outcome": status.outcome.value if status else None,
        "reason": status.reason if status else None,
        "failures": status.failures if status else 0,
        "attempted_at": _iso(status.attempted_at) if status else None,
        "due_at": _iso(status.next_at(question.api.every)) if status else None,
    }


def _described(payload: "Snapshot") -> dict[str, Any]:
    try:
        content = json.loads(payload.payload)
    except ValueError:
        content = payload.payload
    return {
        "api": payload.api,
        "fetched_at": _iso(payload.fetched_at),
        "seen_at": _iso(payload.seen_at),
        "url": payload.url_used,
        "payload": content,
    }


def _iso(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
