"""What the YAML of a collection may say; and every shipped entry, held against an answer of the documented shape."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from refresh_pipeline.api_files import CATALOG, load_collections, load_usable, overrides, write_override
from refresh_pipeline.market.apis import (
    ApiError,
    ApiQuestion,
    Override,
    overridden,
    parse_collection,
    shortest_interval,
)
from refresh_pipeline.settings import Settings
from refresh_pipeline.sources.any_api import payload_of
from refresh_pipeline.warehouse import snapshots
from refresh_pipeline.warehouse.connection import connect, transaction
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome
from refresh_pipeline.warehouse.snapshots import Arrival
from refresh_pipeline_tests.warehouse.warehouse_fixtures import NOW

PAYLOADS = json.loads((Path(__file__).parent / "payloads.json").read_text(encoding="utf-8"))
SHIPPED = [parse_collection(file.read_text(encoding="utf-8"), file.name) for file in sorted(CATALOG.glob("*.yaml"))]


def _payload(question: ApiQuestion) -> object:
    answer = PAYLOADS[question.base]
    body = answer if isinstance(answer, str) else json.dumps(answer)
    return payload_of(body.encode(), "application/json", question.api.answer)


def test_thirty_entries_are_shipped_with_terms_and_year_and_none_that_needs_a_key_is_on():
    apis = {name: api for collection in SHIPPED for name, api in collection.apis.items()}
    assert len(apis) == sum(len(collection.apis) for collection in SHIPPED) == 31
    assert set(apis) == set(PAYLOADS)
    for collection in SHIPPED:
        assert not collection.allow_private
        for question in collection.questions:
            api = question.api
            assert api.docs.startswith("https://")
            assert api.terms.startswith("https://")
            assert api.documented
            assert api.columns
            assert not (question.variables and api.enabled)


@pytest.mark.parametrize("collection", SHIPPED, ids=lambda each: each.name)
def test_every_column_of_a_shipped_entry_finds_something_in_an_answer_as_documented(collection, tmp_path: Path):
    arrivals = {
        question.id: Arrival(Attempt(Outcome.updated), NOW.replace(tzinfo=None), _payload(question), 200)
        for question in collection.questions
    }
    with connect(str(tmp_path / "refresh.duckdb")) as connection:
        with transaction(connection):
            snapshots.ensure(connection, collection)
            snapshots.store(connection, collection, arrivals, NOW)
        for name, api in collection.apis.items():
            counts = ", ".join(f'count("{column}")' for column in api.columns)
            [found] = connection.execute(f'select {counts} from "{collection.name}"."{name}"').fetchall()
            assert all(found), f"{name}: {dict(zip(api.columns, found, strict=True))}"


COLLECTION = """
name: mine
apis:
  balance: {url: "https://a.example/api", params: {a: "{address}"}, each: {address: ["0xA", "0xB"]}, update_type: daily}
  news: {url: https://b.example/rss, answer: rss, every: 90s}
"""


def test_each_gives_a_partition_for_each_value_and_types_of_updates_are_intervals():
    collection = parse_collection(COLLECTION, "mine.yaml")
    assert [question.id for question in collection.questions] == ["balance.0xa", "balance.0xb", "news"]
    assert collection.questions[0].ways[0].params == {"a": "0xA"}
    assert collection.apis["balance"].every == timedelta(days=1)
    assert shortest_interval(collection.questions) == timedelta(seconds=90)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "allowed: a mapping"),
        ("name: Mine\napis: {a: {url: https://a.example}}", "lower-case letter"),
        ("name: mine\napis: {}", "found none"),
        ("name: mine\napis: {a/b: {url: https://a.example}}", "'a/b'"),
        ("name: mine\napis: {versions: {url: https://a.example}}", "'versions'"),
        ("name: mine\napis: {a: {url: ftp://a.example}}", "http:// or https://"),
        ("name: mine\napis: {a: {url: https://u:p@a.example}}", "no user"),
        ("name: mine\napis: {a: {url: https://a.example, every: 5s}}", "10s to 7d"),
        ("name: mine\napis: {a: {url: https://a.example, every: -5}}", "10s to 7d"),
        ("name: mine\napis: {a: {url: 'https://a.example/{x}'}}", "has no values"),
        ("name: mine\napis: {a: {url: https://a.example, evry: 1h}}", "evry"),
        ("name: [", "not readable as YAML"),
    ],
)
def test_wrong_yaml_is_named(text: str, message: str):
    with pytest.raises(ApiError, match=message):
        parse_collection(text, "mine.yaml")


KEYS = ("params: {k: $REFRESH_SECRET_A}", "headers: {K: $REFRESH_SECRET_A}", "body: [$REFRESH_SECRET_A]")


@pytest.mark.parametrize("part", KEYS)
def test_a_key_goes_to_no_other_machine_in_the_clear(part: str):
    def parsed(way: str) -> None:
        parse_collection(f"name: mine\napis: {{a: {{url: 'https://a.example', or: [{{{way}, {part}}}]}}}}", "mine.yaml")

    with pytest.raises(ApiError, match=r"or\.0: url: found http:// to b\.example, which shows \$REFRESH_SECRET_A"):
        parsed("url: 'http://b.example'")
    for way in (
        "url: 'https://b.example'",
        "url: 'http://localhost:80'",
        "url: 'http://b.example', insecure_http: true",
    ):
        parsed(way)


def test_collections_are_loaded_by_name_and_a_folder_of_ones_own_wins(tmp_path: Path):
    (tmp_path / "sentiment.yaml").write_text("name: sentiment\napis: {a: {url: https://a.example}}")
    settings = Settings.model_construct(
        enabled_collections="sentiment, chains", apis_dir=tmp_path, data_dir=tmp_path, enabled_markets="demo"
    )
    assert [next(iter(each.apis)) for each in load_collections(settings)] == ["a", "gas"]
    for wrong, message in (("sentimnt", "did you mean 'sentiment'"), ("demo", "allowed: chains")):
        with pytest.raises(ApiError, match=message):
            load_collections(settings.model_copy(update={"enabled_collections": wrong}))


def test_the_collection_that_commands_write_is_enabled_by_its_file_and_leaves_the_others_alone(tmp_path: Path):
    custom = tmp_path / "apis" / "custom.yaml"
    custom.parent.mkdir()
    custom.write_text("name: custom\napis: {mine: {url: https://a.example}}")
    settings = Settings.model_construct(
        enabled_collections="sentiment", apis_dir=None, data_dir=tmp_path, enabled_markets="demo"
    )
    assert [each.name for each in load_collections(settings)] == ["sentiment", "custom"]
    assert [each.name for each in load_usable(settings)[0]] == ["sentiment", "custom"]
    assert [each.name for each in load_collections(settings, ["sentiment"])] == ["sentiment"]
    custom.write_text("name: custom\napis: {mine: {url: nowhere}}")
    usable, faults = load_usable(settings)
    assert ([each.name for each in usable], list(faults)) == (["sentiment"], ["custom"])


def test_an_override_changes_interval_and_switch_until_it_is_changed_again(tmp_path: Path):
    settings = Settings.model_construct(data_dir=tmp_path, apis_dir=None, enabled_collections="")
    assert overrides(settings, "mine") == {}
    write_override(settings, "mine", "news", Override(every=timedelta(minutes=5)))
    write_override(settings, "mine", "news", Override(enabled=False))
    changed = overrides(settings, "mine")
    assert changed == {"news": Override(timedelta(minutes=5), False)}
    collection = parse_collection(COLLECTION, "mine.yaml")
    question = overridden(collection.questions[-1], changed)
    assert (question.api.every, question.api.enabled) == (timedelta(minutes=5), False)
    (tmp_path / "apis" / "overrides.yaml").write_text("mine: {news: {every: 1s}}")
    with pytest.raises(ApiError, match="10s to 7d"):
        overrides(settings, "mine")
