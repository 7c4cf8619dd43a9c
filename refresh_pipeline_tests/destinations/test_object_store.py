"""Uploads into S3-compatible storage: the client that ships against a server in miniature that checks signatures."""

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from refresh_pipeline.destinations import (
    Destination,
    DestinationError,
    Outgoing,
    PermanentUploadError,
    TransientUploadError,
    Uploaded,
)
from refresh_pipeline.destinations.object_store import PIECE_BYTES, ObjectStoreDestination, etag_of
from refresh_pipeline.destinations.parallel import OUTAGE_AFTER
from refresh_pipeline.destinations.paths import WrongDestination
from refresh_pipeline.destinations.registry import open_destination
from refresh_pipeline.destinations.upload_url import uploads_spec
from refresh_pipeline.market.destination_spec import ObjectStoreSpec
from refresh_pipeline_tests.fakes.azure import ACCOUNT, ACCOUNT_KEY, CONTAINER, FakeAzure
from refresh_pipeline_tests.fakes.http_server import Fault, LoopbackServer
from refresh_pipeline_tests.fakes.s3 import (
    ACCESS_KEY_ID,
    BUCKET,
    SECRET_ACCESS_KEY,
    FakeMetadataServer,
    FakeS3,
    refused,
)

REMOTES = ("crypto/BTC-USDT_m1.csv", "crypto/BTC USDT é_H1.csv", "fx/EUR-USD_H1.parquet")


@pytest.fixture
def storage() -> Iterator[FakeS3]:
    with FakeS3() as fake:
        yield fake


def reaching(storage: FakeS3, secret: str = SECRET_ACCESS_KEY, bucket: str = BUCKET) -> ObjectStoreDestination:
    return ObjectStoreDestination(
        f"s3://{bucket}/dist/data",
        {"AWS_ACCESS_KEY_ID": ACCESS_KEY_ID, "AWS_SECRET_ACCESS_KEY": secret},
        endpoint=storage.base_url,
        timeout=10,
        sleep=lambda seconds: None,
    )


@pytest.fixture
def destination(storage: FakeS3) -> ObjectStoreDestination:
    return reaching(storage)


@pytest.fixture
def outgoing(tmp_path: Path) -> list[Outgoing]:
    return exported(tmp_path, *REMOTES)


def exported(folder: Path, *remotes: str) -> list[Outgoing]:
    files = [Outgoing(folder / remote, remote) for remote in remotes]
    for file in files:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        file.path.write_text(f"content of {file.remote}")
    return files


def errors_of(results: list[Uploaded]) -> list[str]:
    return [result.file.remote for result in results if result.error is not None]


def test_files_arrive_whole_and_are_not_sent_again(
    storage: FakeS3, destination: ObjectStoreDestination, outgoing: list[Outgoing]
) -> None:
    results = list(destination.upload(outgoing))
    assert errors_of(results) == []
    assert storage.objects == {f"dist/data/{file.remote}": file.path.read_bytes() for file in outgoing}
    assert results[0].url == "s3://candles/dist/data/crypto/BTC-USDT_m1.csv"
    before = len(storage.asked)
    assert [result.skipped for result in destination.upload(outgoing)] == [True] * 3
    assert len(storage.asked) == before + 1
    outgoing[1].path.write_text("another content")
    assert [result.skipped for result in destination.upload(outgoing)] == [True, False, True]


def test_a_listing_of_many_pages_is_read_to_its_end(
    storage: FakeS3, destination: ObjectStoreDestination, tmp_path: Path
) -> None:
    storage.page = 2
    files = exported(tmp_path, *(f"crypto/{number}.csv" for number in range(7)))
    list(destination.upload(files))
    assert all(result.skipped for result in destination.upload(files))
    assert destination.hashes([file.remote for file in files]) == {file.remote: etag_of(file.path) for file in files}


def test_a_large_file_arrives_in_pieces_and_is_known_again(
    storage: FakeS3, destination: ObjectStoreDestination, tmp_path: Path
) -> None:
    large = Outgoing(tmp_path / "large.parquet", "large.parquet")
    large.path.write_bytes(os.urandom(2 * PIECE_BYTES + 5))
    storage.fail(Fault(503), path="large", partNumber="2")
    [result] = destination.upload([large])
    assert result.error is None
    assert storage.objects["dist/data/large.parquet"] == large.path.read_bytes()
    assert result.content_hash == etag_of(large.path)
    assert result.content_hash.endswith("-3")
    [again] = destination.upload([large])
    assert again.skipped


REFUSALS: dict[str, tuple[Fault, type[DestinationError], str]] = {
    "denied": (refused(403, "AccessDenied"), PermanentUploadError, "AWS_ACCESS_KEY_ID"),
    "full": (refused(507, "XMinioStorageFull"), PermanentUploadError, "make room there"),
    "too large": (refused(400, "EntityTooLarge"), PermanentUploadError, "refused"),
    "busy": (refused(503, "SlowDown"), TransientUploadError, "try again later"),
    "broken": (refused(500, "InternalError"), TransientUploadError, "try again later"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refused_file_says_why(
    case: str, storage: FakeS3, destination: ObjectStoreDestination, outgoing: list[Outgoing]
) -> None:
    fault, kind, words = REFUSALS[case]
    storage.fail(fault, times=20, path="EUR-USD")
    results = list(destination.upload(outgoing))
    assert errors_of(results) == [REMOTES[2]]
    assert isinstance(results[2].error, kind)
    assert words in str(results[2].error)


@pytest.mark.parametrize("fault", [refused(503, "SlowDown"), refused(500, "InternalError"), Fault(200, "", drops=True)])
def test_what_passes_is_tried_again(
    fault: Fault, storage: FakeS3, destination: ObjectStoreDestination, outgoing: list[Outgoing]
) -> None:
    storage.fail(fault, times=2, path="EUR-USD")
    assert errors_of(list(destination.upload(outgoing))) == []


def test_a_wrong_key_is_refused_once_for_all_files(storage: FakeS3, outgoing: list[Outgoing]) -> None:
    results = list(reaching(storage, secret="another").upload(outgoing))
    assert errors_of(results) == list(REMOTES)
    assert isinstance(results[0].error, PermanentUploadError)
    assert len(storage.asked) == 1


def test_a_bucket_that_is_not_there_is_told(storage: FakeS3, outgoing: list[Outgoing]) -> None:
    results = list(reaching(storage, bucket="nowhere").upload(outgoing))
    assert "no such bucket" in str(results[0].error)


def test_a_server_that_is_gone_is_told(outgoing: list[Outgoing]) -> None:
    with FakeS3() as storage:
        destination = reaching(storage)
    results = list(destination.upload(outgoing))
    assert errors_of(results) == list(REMOTES)
    assert isinstance(results[0].error, TransientUploadError)


def test_an_outage_is_recognised_after_a_few_files(storage: FakeS3, tmp_path: Path) -> None:
    files = exported(tmp_path, *(f"crypto/{number}.csv" for number in range(60)))
    storage.fail(refused(500, "InternalError"), times=10_000, path=".csv")
    results = list(reaching(storage).upload(files))
    assert len(errors_of(results)) == 60
    sent = {asked.path for asked in storage.asked if asked.path.endswith(".csv")}
    assert OUTAGE_AFTER <= len(sent) < 30


def test_a_file_that_arrives_damaged_is_not_called_uploaded(
    storage: FakeS3, destination: ObjectStoreDestination, outgoing: list[Outgoing]
) -> None:
    storage.damages = True
    results = list(destination.upload(outgoing))
    assert errors_of(results) == list(REMOTES)
    assert "arrived changed" in str(results[0].error)


def test_no_file_leaves_the_prefix(
    storage: FakeS3, destination: ObjectStoreDestination, outgoing: list[Outgoing]
) -> None:
    [result] = destination.upload([Outgoing(outgoing[0].path, "../a.csv")])
    assert isinstance(result.error, PermanentUploadError)
    assert storage.objects == {}


def test_an_export_that_was_lost_is_told(destination: ObjectStoreDestination, outgoing: list[Outgoing]) -> None:
    outgoing[0].path.unlink()
    results = list(destination.upload(outgoing))
    assert errors_of(results) == [REMOTES[0]]
    assert "export it again" in str(results[0].error)


class Elsewhere(LoopbackServer):
    """Another host, which would take whatever is brought."""

    async def answer(self, request: web.Request) -> web.Response:
        return web.Response(headers={"ETag": '"x"'})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("url", "credentials"),
    [
        (
            f"s3://{BUCKET}",
            {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "fake-session-token"},
        ),
        (f"az://{CONTAINER}", {"AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": ACCOUNT_KEY}),
    ],
)
def test_a_redirect_to_another_host_is_refused_and_brings_nothing_there(
    outgoing: list[Outgoing], url: str, credentials: dict[str, str], status: int
) -> None:
    with Elsewhere() as other, FakeS3() as storage:
        storage.fail(Fault(status, headers={"Location": f"{other.base_url}/candles/x"}), times=99)
        destination = ObjectStoreDestination(
            url, credentials, endpoint=storage.base_url, timeout=10, sleep=lambda seconds: None
        )
        [result] = destination.upload(outgoing[:1])
    assert other.asked == []
    assert f"sends requests on to {other.base_url.partition('//')[2]}" in str(result.error)


def test_a_redirect_within_the_endpoint_is_followed(storage: FakeS3, destination: ObjectStoreDestination) -> None:
    storage.put("dist/data/a.csv", b"a")
    storage.fail(Fault(307, headers={"Location": f"{storage.base_url}/{BUCKET}?list-type=2"}), times=1)
    with pytest.raises(DestinationError, match="access refused"):
        # The signature is of the first address: no store accepts it at the second.
        destination.hashes(["a.csv"])
    assert len(storage.asked) > 1


def test_secrets_show_nowhere(storage: FakeS3, outgoing: list[Outgoing], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    destination = reaching(storage)
    echo = f"{ACCESS_KEY_ID} {SECRET_ACCESS_KEY}"
    storage.fail(refused(403, "SignatureDoesNotMatch", echo), times=50)
    said = " ".join(str(result.error) for result in destination.upload(outgoing)) + repr(destination) + caplog.text
    assert "access refused" in said
    assert SECRET_ACCESS_KEY not in said
    assert ACCESS_KEY_ID not in said


def opened(spec: ObjectStoreSpec, **credentials: str) -> Destination:
    destination = open_destination(spec, credentials, default_folder=Path("unused"))
    assert destination is not None
    return destination


def test_a_yaml_and_credentials_make_one() -> None:
    spec = ObjectStoreSpec(name="lake", kind="s3", bucket="b", prefix="p")
    assert opened(spec, AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s").url == "s3://b/p"
    with pytest.raises(WrongDestination, match="missing: AWS_SECRET_ACCESS_KEY"):
        opened(spec, AWS_ACCESS_KEY_ID="k")


def test_keys_go_to_no_other_machine_in_the_clear() -> None:
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    spec = ObjectStoreSpec(kind="s3", bucket="candles", endpoint="http://storage.example.org:9000")
    with pytest.raises(WrongDestination, match=r"http:// to storage\.example\.org, which shows keys"):
        ObjectStoreDestination.from_spec(spec, keys)
    for allowed in (
        {"insecure_http": True},
        {"endpoint": "http://127.0.0.1:9"},
        {"endpoint": "https://storage.example.org"},
    ):
        ObjectStoreDestination.from_spec(spec.model_copy(update=allowed), keys)
    address = "s3://candles?endpoint=http://storage.example.org&insecure_http=true"
    assert uploads_spec(address, {}, Path()).model_dump()["insecure_http"] is True


def test_without_keys_the_role_of_the_machine_counts(storage: FakeS3, outgoing: list[Outgoing]) -> None:
    spec = ObjectStoreSpec(kind="object_store", url=f"s3://{BUCKET}/dist", endpoint=storage.base_url)
    with FakeMetadataServer() as role:
        os.environ["AWS_METADATA_ENDPOINT"] = role.base_url
        assert errors_of(list(opened(spec).upload(outgoing))) == []
        asked = len(role.asked)
        assert asked > 0
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY}
        assert all(result.skipped for result in opened(spec, **keys).upload(outgoing))
        assert len(role.asked) == asked, "keys that are set win"
    assert set(storage.objects) == {f"dist/{remote}" for remote in REMOTES}


def test_without_keys_and_without_a_role_the_message_says_what_to_set(
    storage: FakeS3, outgoing: list[Outgoing]
) -> None:
    os.environ["AWS_METADATA_ENDPOINT"] = "http://127.0.0.1:9"
    destination = ObjectStoreDestination(
        f"s3://{BUCKET}", {}, endpoint=storage.base_url, timeout=1, sleep=lambda seconds: None
    )
    [result] = destination.upload(outgoing[:1])
    assert "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in str(result.error)
    assert storage.asked == []


def test_google_storage_takes_files_by_the_key_file_of_its_own_chain(tmp_path: Path, outgoing: list[Outgoing]) -> None:
    key = tmp_path / "key.json"
    account = {"client_email": "a@example.org", "private_key": "", "private_key_id": "", "disable_oauth": True}
    with FakeS3(checks_signatures=False) as storage:
        key.write_text(json.dumps({"type": "service_account", "gcs_base_url": storage.base_url, **account}))
        os.environ["GOOGLE_SERVICE_ACCOUNT"] = str(key)
        spec = ObjectStoreSpec(kind="object_store", url=f"gs://{BUCKET}/dist", endpoint=storage.base_url)
        assert errors_of(list(opened(spec).upload(outgoing))) == []
        assert all(result.skipped for result in opened(spec).upload(outgoing))
    assert set(storage.objects) == {f"dist/{remote}" for remote in REMOTES}


def test_azure_takes_files_and_knows_them_again_by_the_hash_that_it_gave(outgoing: list[Outgoing]) -> None:
    keys = {"AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": ACCOUNT_KEY}
    with FakeAzure() as storage:
        spec = ObjectStoreSpec(kind="object_store", url=f"az://{CONTAINER}/dist", endpoint=storage.base_url)
        destination = opened(spec, **keys)
        results = list(destination.upload(outgoing))
        assert errors_of(results) == []
        assert storage.blobs == {f"dist/{file.remote}": file.path.read_bytes() for file in outgoing}
        hashes = {result.file.remote: result.content_hash for result in results}
        assert destination.hashes(REMOTES) == hashes
        again = [replace(file, known_hash=hashes[file.remote]) for file in outgoing]
        assert all(result.skipped for result in destination.upload(again))
        assert len(storage.blobs) == 3


class _Endless(LoopbackServer):
    """Object storage whose listing gives the same page, and the same token, for ever."""

    async def answer(self, request: web.Request) -> web.Response:
        entry = "<Contents><Key>a/x.csv</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>1</Size>"
        page = f"<IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken>{entry}"
        body = f"<ListBucketResult>{page}<ETag>&quot;{'0' * 32}&quot;</ETag></Contents></ListBucketResult>"
        return web.Response(text=body, content_type="application/xml")


def test_a_listing_that_repeats_itself_ends() -> None:
    keys = {"AWS_ACCESS_KEY_ID": "key-of-a-test", "AWS_SECRET_ACCESS_KEY": "secret-of-a-test"}
    with _Endless() as server:
        destination = ObjectStoreDestination("s3://bucket/a", keys, endpoint=server.base_url, region="us-east-1")
        with pytest.raises(DestinationError, match="the listing repeats itself"):
            destination.hashes(["a/x.csv", "a/y.csv"])
        assert len(server.asked) < 500


class _Empty(LoopbackServer):
    """Object storage whose listing goes on for ever, with a new token and no file on each page."""

    async def answer(self, request: web.Request) -> web.Response:
        token = f"<NextContinuationToken>{len(self.asked)}</NextContinuationToken>"
        body = f"<ListBucketResult><IsTruncated>true</IsTruncated>{token}</ListBucketResult>"
        return web.Response(text=body, content_type="application/xml")


def test_a_listing_of_empty_pages_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ObjectStoreDestination, "page_limit", 0.3)
    keys = {"AWS_ACCESS_KEY_ID": "key-of-a-test", "AWS_SECRET_ACCESS_KEY": "secret-of-a-test"}
    with _Empty() as server:
        destination = ObjectStoreDestination("s3://bucket/a", keys, endpoint=server.base_url, region="us-east-1")
        with pytest.raises(DestinationError, match="no further file within 0 s"):
            destination.hashes(["a/x.csv"])
        assert server.asked
