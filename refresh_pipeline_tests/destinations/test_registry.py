"""Which destination the settings mean, and what is said where they mean none."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from refresh_pipeline.destinations import Destination
from refresh_pipeline.destinations.paths import WrongDestination
from refresh_pipeline.destinations.registry import DESTINATIONS, open_destination
from refresh_pipeline.market.destination_spec import KINDS, UploadsSpec

CREDENTIALS = {
    "DROPBOX_APP_KEY": "hidden-key",
    "DROPBOX_APP_SECRET": "hidden-secret",
    "DROPBOX_REFRESH_TOKEN": "hidden-token",
}
DEFAULT = Path("/data/uploads")


NAMED = UploadsSpec(kind="uploads")


def opened(upload_url: str | None, **credentials: str) -> Destination:
    return opened_as(NAMED, upload_url, credentials)


def opened_as(spec: UploadsSpec, upload_url: str | None, credentials: Mapping[str, str]) -> Destination:
    destination = open_destination(spec, credentials, upload_url=upload_url, default_folder=DEFAULT)
    assert destination is not None
    return destination


@pytest.mark.parametrize("unset", [None, "", "  "])
def test_where_nothing_names_a_destination_uploads_are_off(unset: str | None) -> None:
    assert open_destination(UploadsSpec(), {}, upload_url=unset, default_folder=DEFAULT) is None
    assert open_destination(UploadsSpec(), {"AWS_ACCESS_KEY_ID": "a"}, upload_url=unset, default_folder=DEFAULT) is None


@pytest.mark.parametrize("unset", [None, "", "  "])
def test_uploads_in_the_yaml_mean_the_default_folder(unset: str | None) -> None:
    destination = opened(unset)
    assert (destination.url, destination.hash_name) == ("file:///data/uploads", "sha256")


def test_a_setting_names_the_destination_of_a_market_whose_yaml_is_silent() -> None:
    assert opened_as(UploadsSpec(), "file:///exports", {}).url == "file:///exports"
    assert opened_as(UploadsSpec(), None, CREDENTIALS).url == "dropbox:///refresh-pipeline"


def test_credentials_mean_dropbox() -> None:
    destination = opened(None, **CREDENTIALS)
    assert (destination.url, destination.hash_name) == ("dropbox:///refresh-pipeline", "dropbox")


def test_a_folder_that_is_named_wins_over_credentials() -> None:
    assert opened("file:///exports", **CREDENTIALS).url == "file:///exports"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("dropbox:///Apps/x/my%20path/", "dropbox:///Apps/x/my%20path"),
        ("dropbox:///", "dropbox:///"),
        ("DROPBOX:///a", "dropbox:///a"),
    ],
)
def test_a_dropbox_url_names_the_root(url: str, shown: str) -> None:
    assert opened(url, **CREDENTIALS).url == shown


@pytest.mark.parametrize("url", [None, "dropbox:///a"])
@pytest.mark.parametrize("missing", list(CREDENTIALS))
def test_incomplete_credentials_name_what_is_missing_and_show_no_value(url: str | None, missing: str) -> None:
    with pytest.raises(WrongDestination) as failure:
        opened(url, **CREDENTIALS | {missing: ""})
    assert f"missing: {missing}." in str(failure.value)
    assert "hidden" not in str(failure.value)


def test_a_dropbox_url_without_credentials_names_all_three() -> None:
    with pytest.raises(WrongDestination, match="DROPBOX_APP_KEY, DROPBOX_APP_SECRET, DROPBOX_REFRESH_TOKEN"):
        opened("dropbox:///a")


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("ftp://key:hid/den@bucket/x?token=hidden#hidden", "'ftp'"),
        ("/data/uploads", "'none'"),
        ("https://hidden@www.dropbox.com/home", "'https'"),
    ],
)
def test_an_unknown_scheme_is_named_with_the_allowed_ones_and_no_secret(url: str, found: str) -> None:
    with pytest.raises(WrongDestination) as failure:
        opened(url, **CREDENTIALS)
    message = str(failure.value)
    assert found in message
    assert "file:///a/folder, dropbox:///a/folder, s3://bucket/folder" in message
    assert "hid" not in message


@pytest.mark.parametrize("url", ["dropbox://Apps/x", "dropbox://hidden@Apps/x", "dropbox:x", "dropbox:///a/../b"])
def test_a_dropbox_url_without_an_absolute_path_is_refused(url: str) -> None:
    with pytest.raises(WrongDestination) as failure:
        opened(url, **CREDENTIALS)
    assert "hidden" not in str(failure.value)


def test_only_those_who_upload_to_dropbox_import_its_sdk() -> None:
    script = (
        "import sys; from pathlib import Path; from refresh_pipeline.destinations.registry import open_destination\n"
        "from refresh_pipeline.market.destination_spec import UploadsSpec\n"
        "open_destination(UploadsSpec(kind='uploads'), {}, default_folder=Path('/data'))\n"
        "assert not {'dropbox', 'requests', 'obstore', 'redis'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).resolve().parents[2], check=True)


def test_every_kind_that_a_yaml_may_name_is_registered() -> None:
    assert set(DESTINATIONS) == set(KINDS)


@pytest.mark.parametrize(
    "url",
    [
        "s3://candles/pairs",
        "gs://candles/pairs",
        "az://candles/pairs",
        "s3://candles/pairs?endpoint=http://127.0.0.1:9&region=eu-west-1",
    ],
)
def test_a_bucket_url_names_a_folder_in_a_bucket(url: str) -> None:
    destination = opened(url, AZURE_STORAGE_ACCOUNT_NAME="account", AZURE_STORAGE_ACCOUNT_KEY="aGlkZGVu")
    assert destination.url == url.partition("?")[0]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://key:hidden@bucket/x", "keys belong into AWS_ACCESS_KEY_ID"),
        ("s3://bucket/x?token=hidden", "keys belong into AWS_ACCESS_KEY_ID"),
        ("gs://bucket/x?region=hidden", "region belongs to s3:// alone"),
        ("s3:///hidden", "allowed: s3://bucket/folder"),
    ],
)
def test_a_bucket_url_that_is_wrong_is_refused_without_its_secrets(url: str, words: str) -> None:
    with pytest.raises(WrongDestination) as failure:
        opened(url)
    message = str(failure.value)
    assert words in message
    assert "hidden" not in message.removeprefix("upload URL 's3:///hidden'")
