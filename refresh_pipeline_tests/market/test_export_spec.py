"""What a market's YAML says of exports and destinations, and what one is told about each mistake in it."""

from datetime import timedelta

import pytest

from refresh_pipeline.market.destination_spec import ObjectStoreSpec
from refresh_pipeline.market.export_spec import Compression, Format, Layer, Layout
from refresh_pipeline.market.model import Market, MarketError, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe

BASE = "{name: fx, source: {kind: demo}, calendar: fx, instruments: [EUR/USD, XAU/USD], timeframes: [m1, H1, MN1], "
BOTH = "{current: {window: {last: 330}}, full: {layout: fx_refresh}}"
EURUSD = Series("EUR/USD", Timeframe.H1)


def market(exports: str = BOTH, destinations: str = "{}", more: str = "") -> Market:
    return parse_market(f"{BASE} history: 1d, exports: {exports}, destinations: {destinations}{more}}}", file="fx.yaml")


def complaint(exports: str = BOTH, destinations: str = "{}", more: str = "") -> str:
    with pytest.raises(MarketError) as caught:
        market(exports, destinations, more)
    return str(caught.value)


def paths(of: Market, export: str, series: Series = EURUSD) -> list[str]:
    chosen = of.exports[export]
    return [chosen.path("fx", layer, series, kind) for layer in chosen.layers for kind in chosen.formats]


def test_a_market_that_says_nothing_has_candles_as_text_and_everything_as_one_dataset() -> None:
    silent = parse_market(BASE + "history: 1d}", file="fx.yaml")
    assert paths(silent, "default") == ["fx/candles/EUR-USD_H1.csv"]
    assert [*silent.exports] == ["default", "dataset"]
    dataset = silent.exports["dataset"]
    assert (dataset.layout, dataset.layers, dataset.formats) == (Layout.dataset, (Layer.joined,), (Format.parquet,))
    assert [*silent.destinations] == ["uploads"]
    assert not silent.uploads.is_named
    assert silent.publish == timedelta(hours=2)


def test_each_export_has_a_folder_of_its_own() -> None:
    assert paths(market(), "current") == ["fx/current/EUR-USD_H1.csv", "fx/current/EUR-USD_H1.parquet"]
    assert paths(market(), "full") == ["fx/full/pds/EUR-USD_H1.csv", "fx/full/cds/EUR-USD_H1.csv"]


@pytest.mark.parametrize(("timeframe", "name"), [("m1", "mi1"), ("MN1", "M1"), ("H1", "H1")])
def test_in_the_broker_services_layout_minute_and_month_differ_on_a_case_blind_disk(timeframe: str, name: str) -> None:
    assert paths(market(), "full", Series("EUR/USD", Timeframe(timeframe)))[0] == f"fx/full/pds/EUR-USD_{name}.csv"


def test_one_word_does_where_a_list_has_one() -> None:
    current = market("{current: {layers: candles, formats: json, compression: zstd}}").exports["current"]
    assert (current.layers, current.formats) == ((Layer.candles,), (Format.json,))
    assert current.compression_of(Format.json) is Compression.zstd


@pytest.mark.parametrize("series", market().series, ids=str)
def test_no_two_files_of_a_market_share_a_name(series: Series) -> None:
    every = market(
        "{all: {layers: [candles, enhanced, indicators, joined], formats: [csv, json]}, lake: {layout: hive}}"
    )
    found = [path.lower() for name in every.exports for path in paths(every, name, series)]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("exports", "words"),
    [
        ("{a: {layout: dataset, formats: csv}}", "layout dataset has the format parquet alone"),
        ("{a: {layout: dataset, window: {last: 3}}}", "layout dataset has neither window nor keep"),
        ("[current]", "exports: found ['current']; allowed: a mapping from the name of an export"),
        ("{}", "exports: found {}; allowed: a mapping"),
        ("{a: 3}", "exports.a: found 3; allowed: a mapping with layout, layers"),
        ("{a: {windw: full}}", "exports.a.windw: found 'full'; unknown key; did you mean 'window'?"),
        ("{a: {window: {last: 0}}}", "exports.a.window.last: found 0; allowed: 1 or more"),
        ("{a: {window: {last: 1, days: 1}}}", "allowed: full, or one of {last: 330}"),
        (
            "{a: {formats: [csv, odd]}}",
            "exports.a.formats.1: found 'odd'; allowed: 'csv', 'parquet', 'json' or 'feather'",
        ),
        ("{a: {formats: []}}", "at least one layer and one format"),
        ("{a: {layout: hive, formats: csv}}", "layout hive has the format parquet alone"),
        ("{a: {layout: fx_refresh, layers: indicators}}", "layout fx_refresh has the layers candles (pds)"),
        ("{a: {adjusted: true, layers: joined}}", "adjusted has the layer candles alone"),
        ("{a: {adjusted: true, layout: fx_refresh}}", "in another layout than fx_refresh"),
        ("{a: {adjusted: 1}}", "exports.a.adjusted: found 1"),
        ("{a: {compression: gzip, formats: feather}}", "feather files take compression none, zstd, lz4; found gzip"),
        ("{a: {keep: {newst: 1}}}", "exports.a.keep.newst: found 1; unknown key; did you mean 'newest'?"),
        ("{../a: {}}", "'../a' is no name of an export"),
        ("{a: {}, A: {}}", "a and A are one folder on a case-blind disk"),
        ("{candles: {}}", "'candles' is the name of a folder within an export"),
    ],
)
def test_a_mistake_in_exports_is_answered_with_where_it_is_and_what_is_allowed(exports: str, words: str) -> None:
    assert words in complaint(exports)


@pytest.mark.parametrize(
    ("said", "words"), [(", publish: 7m", "publish: found '7m'; allowed: 5m, 10m"), (", publish: x", "publish")]
)
def test_an_interval_that_no_clock_can_say_is_refused(said: str, words: str) -> None:
    assert words in complaint(more=said)


@pytest.mark.parametrize(
    ("destinations", "words"),
    [
        ("{a: {}}", "nothing said of its kind; allowed: folder, dropbox, object_store, s3, redis"),
        ("{a: {kind: s3}}", "kind s3 needs bucket, or url in its place: s3://bucket/folder"),
        ("{a: {kind: s3, bucket: b, url: 's3://b'}}", "kind s3 needs bucket, or url in its place"),
        (
            "{a: {kind: object_store, url: 'ftp://b'}}",
            "destinations.a.url: found 'ftp://b'; allowed: s3://bucket/folder",
        ),
        ("{a: {kind: folder}}", "destinations.a.directory: missing; allowed keys: kind, exports, path, directory"),
        ("{a: {kind: floder, directory: x}}", "a.kind: found 'floder'; allowed: folder, dropbox"),
        ("{a: 5}", "a: allowed: a mapping with kind"),
        ("{a: {kind: redis, days: 0}}", "destinations.a.days: found 0; allowed: 1 or more"),
        (
            "{a: {kind: redis, bucket: b}}",
            "a.bucket: found 'b'; unknown key (allowed: kind, url, timeframes, days)",
        ),
        (
            "{a: {kind: s3, bucket: b, bukket: c}}",
            "destinations.a.bukket: found 'c'; unknown key; did you mean 'bucket'?",
        ),
        ("{a: {kind: folder, directory: x, path: '{nme}'}}", "path has no {nme}; allowed: path, market"),
        ("{a: {kind: folder, directory: x, path: '{'}}", "path is a template such as"),
        ("{a: {kind: folder, directory: x, path: '../{path}'}}", "path is a template such as"),
        ("{a: {kind: folder, directory: x, path: '{instrument}.{format}'}}", "would both be EUR-USD.csv there"),
        ("{a: {kind: folder, directory: x, exports: [odd]}}", "no export 'odd'; allowed: current, full"),
        ("{a: {kind: redis, timeframes: [m5]}}", "the market has no timeframe m5"),
        ("{uploads: {kind: s3, bucket: b}}", "what `uploads` is, REFRESH_UPLOAD_URL says"),
        ("{A-b: {kind: redis}}", "'A-b' is no name of a destination"),
        ("[a]", "allowed: a mapping from the name of a destination"),
    ],
)
def test_a_mistake_in_destinations_is_answered_likewise(destinations: str, words: str) -> None:
    assert words in complaint(destinations=destinations)


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    said = complaint(destinations="{a: {kind: redis, url: 'redis://user:pass-word@host'}}")
    assert "REDIS_PASSWORD" in said
    assert "pass-word" not in said


@pytest.mark.parametrize("url", ["redis://host/1?password=pass-word", "redis://:pass-word@host/1"])
def test_a_redis_url_with_any_secret_is_refused(url: str) -> None:
    assert "pass-word" not in complaint(destinations=f"{{a: {{kind: redis, url: '{url}'}}}}")


@pytest.mark.parametrize("url", ["s3://key:pass-word@b/x", "s3://b/x?token=pass-word"])
def test_a_bucket_url_with_a_secret_is_refused_and_not_repeated(url: str) -> None:
    message = complaint(destinations=f"{{a: {{kind: object_store, url: '{url}'}}}}")
    assert "keys belong in the environment" in message
    assert "pass-word" not in message


def test_a_bucket_may_be_named_by_its_url() -> None:
    found = market(destinations="{a: {kind: object_store, url: 'gs://candles/pairs'}}").destinations["a"]
    assert isinstance(found, ObjectStoreSpec)
    assert found.url == "gs://candles/pairs"


@pytest.mark.parametrize("keys", ["{}", "{exports: [full]}"])
def test_uploads_are_named_by_a_yaml_that_has_them(keys: str) -> None:
    assert market(destinations=f"{{uploads: {keys}}}").uploads.is_named
    assert not market(destinations="{a: {kind: dropbox}}").uploads.is_named


def test_a_template_says_what_files_are_called_at_a_destination() -> None:
    spec = market(destinations="{uploads: {path: '/dist/data/{export}/{rest}', exports: [full]}}").uploads
    assert (spec.takes("full"), spec.takes("current")) == (True, False)
    full = market().exports["full"]
    assert spec.path_of("fx", full, Layer.candles, EURUSD, Format.csv) == "dist/data/full/pds/EUR-USD_H1.csv"
