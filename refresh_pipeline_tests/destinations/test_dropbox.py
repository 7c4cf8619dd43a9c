"""Uploads into Dropbox: the official SDK against a Dropbox in miniature, with every failure that the real one has.

Nearly all tests hand the destination a session that leads to the loopback, token refreshes included (they go over the
same session). One runs the destination as it is deployed, in a process of its own: the SDK reads the environment
variables that name its hosts when it is imported, so they have to be there before.
"""

import itertools
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from refresh_pipeline.destinations import (
    DestinationError,
    Outgoing,
    PermanentUploadError,
    TransientUploadError,
    Uploaded,
)
from refresh_pipeline.destinations.dropbox import (
    ATTEMPTS,
    SINGLE_REQUEST_BYTES,
    WORKERS,
    DropboxDestination,
)
from refresh_pipeline.destinations.hashes import dropbox_hash_of
from refresh_pipeline.destinations.parallel import OUTAGE_AFTER
from refresh_pipeline.destinations.uploading import LONGEST_WAIT
from refresh_pipeline_tests.fakes.dropbox import (
    API_HOST,
    APP_KEY,
    APP_SECRET,
    CONTENT_HOST,
    REFRESH_TOKEN,
    Answer,
    Dropped,
    FakeDropbox,
    Fault,
    Stalled,
)

ROOT = "/Apps/refresh"
REMOTES = ("crypto/BTC-USDT_m1.csv", "crypto/BTC-USDT_H1.csv", "crypto/ETH-USDT_H1.csv", "fx/EUR-USD_H1.parquet")

UPLOAD = "files/upload"
LISTING = "files/list_folder"


@pytest.fixture
def dropbox() -> Iterator[FakeDropbox]:
    with FakeDropbox() as fake:
        yield fake


@pytest.fixture
def waits() -> list[float]:
    """How long the destination would have slept."""
    return []


@pytest.fixture
def destination(dropbox: FakeDropbox, waits: list[float]) -> DropboxDestination:
    return reaching(dropbox, waits)


def reaching(
    dropbox: FakeDropbox,
    waits: list[float],
    app_secret: str = APP_SECRET,
    refresh_token: str = REFRESH_TOKEN,
    root: str = ROOT,
    timeout: float = 10.0,
    workers: int = 1,
) -> DropboxDestination:
    """One file after the other, for stories in which it matters which request comes next."""
    more = {"session": dropbox.session(), "timeout": timeout, "sleep": waits.append, "workers": workers}
    return DropboxDestination(APP_KEY, app_secret, refresh_token, root, **more)


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


def test_files_arrive_whole_with_dropboxs_own_hashes(
    dropbox: FakeDropbox, destination: DropboxDestination, outgoing: list[Outgoing]
) -> None:
    results = list(destination.upload(outgoing))
    assert dropbox.files == {f"{ROOT}/{file.remote}": file.path.read_bytes() for file in outgoing}
    assert [result.file for result in results] == outgoing
    for result in results:
        assert (result.skipped, result.error) == (False, None)
        assert (result.bytes, result.content_hash) == (
            result.file.path.stat().st_size,
            dropbox_hash_of(result.file.path),
        )
        assert result.url == f"dropbox://{ROOT}/{result.file.remote}"


def test_one_token_and_one_listing_serve_all_files(
    dropbox: FakeDropbox, destination: DropboxDestination, outgoing: list[Outgoing]
) -> None:
    list(destination.upload(outgoing))
    assert [asked.route for asked in dropbox.asked] == ["oauth2/token", LISTING] + [UPLOAD] * 4
    assert {asked.host for asked in dropbox.asked[:2]} == {API_HOST}
    assert {asked.host for asked in dropbox.asked[2:]} == {CONTENT_HOST}
    assert all(asked.argument["mute"] for asked in dropbox.asked[2:]), "nobody's desktop is told of each candle"


def test_what_is_there_already_is_not_sent_again(
    dropbox: FakeDropbox, destination: DropboxDestination, outgoing: list[Outgoing]
) -> None:
    first = list(destination.upload(outgoing))
    outgoing[1].path.write_text("a new candle")
    again = list(destination.upload(outgoing))
    assert [result.skipped for result in again] == [True, False, True, True]
    assert [result.content_hash for result in again if result.skipped] == [
        result.content_hash for number, result in enumerate(first) if number != 1
    ]
    assert dropbox.count(UPLOAD) == 5
    assert dropbox.files[f"{ROOT}/{REMOTES[1]}"] == b"a new candle"


def test_a_listing_of_many_pages_is_read_to_its_end(
    dropbox: FakeDropbox, destination: DropboxDestination, outgoing: list[Outgoing]
) -> None:
    dropbox.page_size = 2
    list(destination.upload(outgoing))
    again = list(destination.upload(outgoing))
    assert [result.skipped for result in again] == [True] * 4
    assert dropbox.count(LISTING) == 2
    # Four files and their two folders.
    assert dropbox.count("files/list_folder/continue") == 2


def test_only_the_folder_of_the_files_is_listed(
    dropbox: FakeDropbox, destination: DropboxDestination, outgoing: list[Outgoing]
) -> None:
    list(destination.upload(outgoing[:3]))
    assert dropbox.asked[1].argument["path"] == f"{ROOT}/crypto"


def test_the_top_of_the_account_can_be_the_root(
    dropbox: FakeDropbox, waits: list[float], outgoing: list[Outgoing]
) -> None:
    top = reaching(dropbox, waits, root="/")
    assert errors_of(list(top.upload(outgoing))) == []
    assert sorted(dropbox.files) == sorted(f"/{remote}" for remote in REMOTES)
    assert [result.skipped for result in top.upload(outgoing)] == [True] * 4


def test_results_come_while_the_upload_goes_on(
    dropbox: FakeDropbox, destination: DropboxDestination, outgoing: list[Outgoing]
) -> None:
    results = destination.upload(outgoing)
    next(results)
    assert dropbox.count(UPLOAD) == 1
    assert len(list(results)) == 3


def test_nothing_to_upload_asks_nothing(dropbox: FakeDropbox, destination: DropboxDestination) -> None:
    assert list(destination.upload([])) == []
    assert dropbox.asked == []


def test_names_in_any_script_arrive(dropbox: FakeDropbox, destination: DropboxDestination, tmp_path: Path) -> None:
    files = exported(tmp_path, "crypto/Zürich ₿ 市場.csv")
    assert [result.error for result in destination.upload(files)] == [None]
    assert list(dropbox.files) == [f"{ROOT}/crypto/Zürich ₿ 市場.csv"]
    assert [result.skipped for result in destination.upload(files)] == [True]


def test_hashes_are_of_what_is_really_there(
    dropbox: FakeDropbox, destination: DropboxDestination, outgoing: list[Outgoing]
) -> None:
    assert destination.hashes(REMOTES) == {}
    list(destination.upload(outgoing))
    changed = outgoing[0].path
    changed.write_text("changed by another hand")
    dropbox.files[f"{ROOT}/{REMOTES[0]}"] = changed.read_bytes()
    del dropbox.files[f"{ROOT}/{REMOTES[1]}"]
    assert destination.hashes(REMOTES) == {
        file.remote: dropbox_hash_of(file.path) for file in outgoing if file.remote != REMOTES[1]
    }


def test_a_hash_is_found_whatever_case_dropbox_kept(
    dropbox: FakeDropbox, destination: DropboxDestination, outgoing: list[Outgoing]
) -> None:
    dropbox.files[f"{ROOT}/Crypto/btc-usdt_M1.CSV"] = outgoing[0].path.read_bytes()
    assert list(destination.hashes(REMOTES)) == [REMOTES[0]]


# What the wire says to an upload, again and again; what becomes of the file; a word of what its error says.
REFUSALS: dict[str, tuple[Fault, type[DestinationError], str]] = {
    "no space": (Answer.write_refused("insufficient_space"), PermanentUploadError, "make room there"),
    "team space": (Answer.write_refused("team_folder_insufficient_space"), PermanentUploadError, "make room there"),
    "malformed path": (Answer.write_refused("malformed_path"), PermanentUploadError, "choose another root or name"),
    "disallowed name": (Answer.write_refused("disallowed_name"), PermanentUploadError, "does not allow this name"),
    "no permission": (Answer.write_refused("no_write_permission"), PermanentUploadError, "may not write there"),
    "a folder there": (Answer.write_refused("conflict", {".tag": "folder"}), PermanentUploadError, "a folder is where"),
    "bad input": (
        Answer(400, "path: 'x' did not match", "text/plain"),
        PermanentUploadError,
        "cannot read the request",
    ),
    "forbidden": (Answer.error(403, "no_way", {".tag": "no_way"}), PermanentUploadError, "refused"),
    "unheard of": (
        Answer.error(409, "news", {".tag": "news"}, user_message={"text": "Ask"}),
        PermanentUploadError,
        "Ask",
    ),
    "payload": (Answer.error(409, "payload_too_large", {".tag": "payload_too_large"}), PermanentUploadError, "payload"),
    "teapot": (Answer(418, "short and stout", "text/plain"), PermanentUploadError, "short and stout"),
    "a file at once": (Answer.write_refused("conflict", {".tag": "file"}), TransientUploadError, "another writer"),
    "many writers": (Answer.write_refused("too_many_write_operations"), TransientUploadError, "others are writing"),
    "server error": (Answer(500, "<html>", "text/html"), TransientUploadError, "HTTP 500"),
    "out of service": (Answer(503, "<html>", "text/html"), TransientUploadError, "HTTP 503"),
    "dropped": (Dropped(), TransientUploadError, "no answer"),
    "gateway 404": (Answer(404, "<html>gone</html>", "text/html"), TransientUploadError, "not Dropbox's"),
    "gateway 401": (Answer(401, "<html>log in</html>", "text/html"), TransientUploadError, "not Dropbox's"),
    "gateway 200": (Answer(200, "<html>hello</html>", "text/html"), TransientUploadError, "not Dropbox's"),
    "charset": (Answer(200, "{}", "application/json; charset=utf-8"), TransientUploadError, "not Dropbox's"),
    "empty object": (Answer(200, "{}"), TransientUploadError, "cannot read"),
    "other": (Answer.error(409, "other", {".tag": "other"}), TransientUploadError, "cannot read"),
    "a list": (Answer(409, "[]"), TransientUploadError, "not Dropbox's"),
    "too many": (Answer(429, "", "text/plain"), TransientUploadError, "during 5 s"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refused_file_says_why_and_stops_no_other(
    case: str, dropbox: FakeDropbox, destination: DropboxDestination, waits: list[float], outgoing: list[Outgoing]
) -> None:
    fault, kind, words = REFUSALS[case]
    transient = kind is TransientUploadError
    dropbox.fail(UPLOAD, *[fault] * (ATTEMPTS if transient else 1))
    # A limit that lasts is the one refusal here that concerns the other files too.
    results = list(destination.upload(outgoing[:1] if case == "too many" else outgoing))
    assert errors_of(results) == [REMOTES[0]]
    error = results[0].error
    assert isinstance(error, kind)
    assert error.transient is transient
    assert words in str(error)
    assert f"{ROOT}/{REMOTES[0]}" in str(error)
    assert len(waits) == (ATTEMPTS - 1 if transient else 0)


@pytest.mark.parametrize("case", [name for name, (_, kind, _) in REFUSALS.items() if kind is TransientUploadError])
def test_what_passes_is_tried_again_until_it_has_passed(
    case: str, dropbox: FakeDropbox, destination: DropboxDestination, waits: list[float], outgoing: list[Outgoing]
) -> None:
    dropbox.fail(UPLOAD, *[REFUSALS[case][0]] * (ATTEMPTS - 1))
    results = list(destination.upload(outgoing))
    assert errors_of(results) == []
    assert len(dropbox.files) == 4
    assert len(waits) == ATTEMPTS - 1


@pytest.mark.parametrize("case", ["server error", "dropped", "gateway 404", "many writers"])
@pytest.mark.parametrize("route", [LISTING, "oauth2/token"])
def test_what_passes_while_asking_is_tried_again_too(
    case: str,
    route: str,
    dropbox: FakeDropbox,
    destination: DropboxDestination,
    waits: list[float],
    outgoing: list[Outgoing],
) -> None:
    fault = Answer(429, "", "text/plain") if case == "many writers" else REFUSALS[case][0]
    dropbox.fail(route, fault, fault)
    assert errors_of(list(destination.upload(outgoing))) == []
    assert len(waits) == 2


def test_waits_grow_and_differ_from_each_other(
    dropbox: FakeDropbox, destination: DropboxDestination, waits: list[float], outgoing: list[Outgoing]
) -> None:
    dropbox.fail(UPLOAD, *[Dropped()] * (ATTEMPTS - 1))
    list(destination.upload(outgoing[:1]))
    assert all(0 <= wait <= 0.5 * 2**number for number, wait in enumerate(waits))
    assert len(set(waits)) == len(waits)


def rate_limited(seconds: int) -> Answer:
    error = {"reason": {".tag": "too_many_requests"}, "retry_after": seconds}
    return Answer.error(429, "too_many_requests", error)


@pytest.mark.parametrize(
    ("answer", "wait"),
    [
        (rate_limited(7), 7),
        (Answer(429, "", "text/plain", {"Retry-After": "3"}), 3),
        (Answer(429, "", "text/plain"), 5),
        (rate_limited(0), 0),
    ],
)
def test_dropboxs_wish_how_long_to_wait_is_kept(
    answer: Answer,
    wait: float,
    dropbox: FakeDropbox,
    destination: DropboxDestination,
    waits: list[float],
    outgoing: list[Outgoing],
) -> None:
    dropbox.fail(UPLOAD, answer)
    assert errors_of(list(destination.upload(outgoing))) == []
    assert waits == [wait]


def test_a_limit_that_does_not_end_is_given_up_and_nobody_is_asked_again(
    dropbox: FakeDropbox, destination: DropboxDestination, waits: list[float], outgoing: list[Outgoing]
) -> None:
    dropbox.fail(UPLOAD, *[rate_limited(2)] * ATTEMPTS)
    results = list(destination.upload(outgoing))
    assert errors_of(results) == list(REMOTES)
    assert all(isinstance(result.error, TransientUploadError) for result in results)
    assert dropbox.count(UPLOAD) == ATTEMPTS
    assert waits == [2] * (ATTEMPTS - 1)


def test_a_wish_to_wait_for_long_ends_the_upload_at_once(
    dropbox: FakeDropbox, destination: DropboxDestination, waits: list[float], outgoing: list[Outgoing]
) -> None:
    dropbox.fail(UPLOAD, rate_limited(int(LONGEST_WAIT) + 1))
    results = list(destination.upload(outgoing))
    assert errors_of(results) == list(REMOTES)
    assert f"during {LONGEST_WAIT + 1:g} s" in str(results[3].error)
    assert (dropbox.count(UPLOAD), waits) == (1, [])


def test_an_outage_is_recognised_after_a_few_files(
    dropbox: FakeDropbox, destination: DropboxDestination, tmp_path: Path
) -> None:
    files = exported(tmp_path, *(f"crypto/{number}.csv" for number in range(10)))
    dropbox.fail(UPLOAD, *[Answer(503, "", "text/html")] * 100)
    results = list(destination.upload(files))
    assert len(errors_of(results)) == 10
    assert dropbox.count(UPLOAD) == OUTAGE_AFTER * ATTEMPTS


@pytest.mark.parametrize("between", [[], [Answer.write_refused("disallowed_name")]])
def test_failures_that_do_not_follow_each_other_are_no_outage(
    between: list[Fault], dropbox: FakeDropbox, destination: DropboxDestination, tmp_path: Path
) -> None:
    files = exported(tmp_path, *(f"crypto/{number}.csv" for number in range(OUTAGE_AFTER * 2 + 1)))
    unlucky = [Answer(503, "", "text/html")] * ATTEMPTS * (OUTAGE_AFTER - 1)
    results = destination.upload(files)
    for _ in range(2):
        dropbox.fail(UPLOAD, *unlucky, *between)
        failed = [next(results).error is not None for _ in range(OUTAGE_AFTER)]
        assert failed == [True] * (OUTAGE_AFTER - 1) + [bool(between)]
    assert errors_of(list(results)) == []


def test_after_the_end_of_all_requests_what_is_there_still_counts_as_there(
    dropbox: FakeDropbox, destination: DropboxDestination, outgoing: list[Outgoing]
) -> None:
    list(destination.upload(outgoing[2:]))
    dropbox.fail(UPLOAD, rate_limited(600))
    results = list(destination.upload(outgoing))
    assert errors_of(results) == list(REMOTES[:2])
    assert [result.skipped for result in results] == [False, False, True, True]


def test_a_server_that_is_gone_is_an_error_for_every_file(
    dropbox: FakeDropbox, destination: DropboxDestination, waits: list[float], outgoing: list[Outgoing]
) -> None:
    dropbox.stop()
    results = list(destination.upload(outgoing))
    assert errors_of(results) == list(REMOTES)
    assert all(isinstance(result.error, TransientUploadError) for result in results)
    assert "check the network" in str(results[0].error)
    assert len(waits) == ATTEMPTS - 1
    with pytest.raises(TransientUploadError, match="check the network"):
        destination.hashes(REMOTES)


def test_a_server_that_dies_during_the_upload_keeps_what_arrived(
    dropbox: FakeDropbox, destination: DropboxDestination, outgoing: list[Outgoing]
) -> None:
    results = destination.upload(outgoing)
    first = next(results)
    dropbox.fail(UPLOAD, *[Dropped()] * 100)
    dropbox.stop()
    assert first.error is None
    assert errors_of(list(results)) == list(REMOTES[1:])


def test_a_server_that_never_answers_does_not_hold_the_run(
    dropbox: FakeDropbox, waits: list[float], outgoing: list[Outgoing]
) -> None:
    dropbox.fail(UPLOAD, *[Stalled()] * ATTEMPTS)
    results = list(reaching(dropbox, waits, timeout=0.05).upload(outgoing[:1]))
    assert isinstance(results[0].error, TransientUploadError)
    assert "timed out" in str(results[0].error)


def test_a_revoked_app_is_refused_once_for_all_files(
    dropbox: FakeDropbox, destination: DropboxDestination, outgoing: list[Outgoing]
) -> None:
    results = destination.upload(outgoing)
    next(results)
    dropbox.revoked = True
    rest = list(results)
    assert errors_of(rest) == list(REMOTES[1:])
    assert all(isinstance(result.error, PermanentUploadError) for result in rest)
    assert "authorize the app again" in str(rest[-1].error)
    assert dropbox.count(UPLOAD) == 2


@pytest.mark.parametrize("wrong", [{"refresh_token": "no-such-token"}, {"app_secret": "no-such-secret"}])
def test_credentials_that_are_wrong_say_which_to_set(
    wrong: dict[str, Any], dropbox: FakeDropbox, waits: list[float], outgoing: list[Outgoing]
) -> None:
    results = list(reaching(dropbox, waits, **wrong).upload(outgoing))
    assert errors_of(results) == list(REMOTES)
    assert isinstance(results[0].error, PermanentUploadError)
    assert "DROPBOX_REFRESH_TOKEN" in str(results[0].error)
    assert (len(dropbox.asked), waits) == (1, [])


@pytest.mark.parametrize(("scope", "uploads"), [("files.metadata.read", 0), ("files.content.write", 1)])
def test_a_missing_permission_is_named_once_for_all_files(
    scope: str, uploads: int, dropbox: FakeDropbox, destination: DropboxDestination, outgoing: list[Outgoing]
) -> None:
    dropbox.scopes.remove(scope)
    results = list(destination.upload(outgoing))
    assert errors_of(results) == list(REMOTES)
    assert all(isinstance(result.error, PermanentUploadError) for result in results)
    assert f"lacks {scope}" in str(results[-1].error)
    assert dropbox.count(UPLOAD) == uploads


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer.error(401, "user_suspended", {".tag": "user_suspended"}), "suspended"),
        (Answer.error(401, "other", {".tag": "other"}), "authorize the app again"),
        (Answer(400, "Your app (ID: 1) does not have the required scope 'files.content.write'", "text/plain"), "scope"),
    ],
)
def test_other_refusals_of_the_whole_app_are_final_too(
    answer: Answer, words: str, dropbox: FakeDropbox, destination: DropboxDestination, outgoing: list[Outgoing]
) -> None:
    dropbox.fail(UPLOAD, answer)
    results = list(destination.upload(outgoing))
    assert errors_of(results) == list(REMOTES)
    assert isinstance(results[-1].error, PermanentUploadError)
    assert words in str(results[-1].error)
    assert dropbox.count(UPLOAD) == 1


def test_a_token_that_expires_during_the_upload_is_renewed(
    dropbox: FakeDropbox, destination: DropboxDestination, outgoing: list[Outgoing]
) -> None:
    results = destination.upload(outgoing)
    next(results)
    dropbox.expire_tokens()
    assert errors_of(list(results)) == []
    assert dropbox.count("oauth2/token") == 2


def test_a_full_account_still_takes_what_fits(
    dropbox: FakeDropbox, destination: DropboxDestination, outgoing: list[Outgoing]
) -> None:
    outgoing[0].path.write_bytes(b"x" * 1000)
    dropbox.capacity = 500
    results = list(destination.upload(outgoing))
    assert errors_of(results) == [REMOTES[0]]
    assert "upload of 1,000 bytes" in str(results[0].error)
    assert len(dropbox.files) == 3


def test_a_file_in_the_roots_place_says_so(
    dropbox: FakeDropbox, destination: DropboxDestination, outgoing: list[Outgoing]
) -> None:
    dropbox.files[ROOT] = b"in the way"
    results = list(destination.upload(outgoing))
    assert errors_of(results) == list(REMOTES)
    assert "move it away" in str(results[0].error)


def test_a_file_that_arrives_damaged_is_not_called_uploaded(
    dropbox: FakeDropbox, destination: DropboxDestination, waits: list[float], outgoing: list[Outgoing]
) -> None:
    dropbox.damages = True
    results = list(destination.upload(outgoing[:1]))
    assert isinstance(results[0].error, TransientUploadError)
    assert "arrived changed" in str(results[0].error)
    assert len(waits) == ATTEMPTS - 1


def acting_between_attempts(dropbox: FakeDropbox, calls: int, act: Callable[[], object]) -> DropboxDestination:
    """A destination that acts between the first and the second attempt of calls that are sent side by side."""
    all_dropped, sleeps = threading.Barrier(calls), itertools.count()

    def sleep(_: float) -> None:
        if next(sleeps) < calls:
            all_dropped.wait(timeout=30)
            act()

    session = dropbox.session()
    return DropboxDestination(APP_KEY, APP_SECRET, REFRESH_TOKEN, ROOT, session=session, sleep=sleep)


def test_a_file_that_changes_while_it_is_sent_is_refused_by_dropbox(
    dropbox: FakeDropbox, outgoing: list[Outgoing]
) -> None:
    # Every first attempt is dropped, and no second one begins before.
    dropbox.fail(UPLOAD, *[Dropped()] * len(outgoing))
    destination = acting_between_attempts(dropbox, len(outgoing), lambda: outgoing[0].path.write_text("changed"))
    results = list(destination.upload(outgoing))
    assert errors_of(results) == [REMOTES[0]]
    assert isinstance(results[0].error, TransientUploadError)
    assert "content_hash_mismatch" in str(results[0].error)
    assert len(dropbox.files) == 3


def test_a_file_that_vanishes_while_it_is_sent_stops_no_other(dropbox: FakeDropbox, outgoing: list[Outgoing]) -> None:
    # Every first attempt is dropped, and no second one begins before.
    dropbox.fail(UPLOAD, *[Dropped()] * len(outgoing))
    destination = acting_between_attempts(dropbox, len(outgoing), lambda: outgoing[0].path.unlink(missing_ok=True))
    results = list(destination.upload(outgoing))
    assert errors_of(results) == [REMOTES[0]]
    assert "export it again" in str(results[0].error)


def test_a_listing_that_is_reset_begins_anew(
    dropbox: FakeDropbox, destination: DropboxDestination, outgoing: list[Outgoing]
) -> None:
    dropbox.page_size = 2
    list(destination.upload(outgoing))
    dropbox.fail("files/list_folder/continue", Answer.error(409, "reset", {".tag": "reset"}))
    assert [result.skipped for result in destination.upload(outgoing)] == [True] * 4


@pytest.mark.parametrize("remote", ["../outside.csv", "/outside.csv", ""])
def test_no_file_leaves_the_root(
    remote: str, dropbox: FakeDropbox, destination: DropboxDestination, outgoing: list[Outgoing]
) -> None:
    results = list(destination.upload([Outgoing(outgoing[0].path, remote), *outgoing]))
    assert errors_of(results) == [remote]
    assert isinstance(results[0].error, PermanentUploadError)
    assert sorted(dropbox.files) == sorted(f"{ROOT}/{remote}" for remote in REMOTES)


def test_a_file_that_was_not_exported_is_an_error_that_says_so(
    destination: DropboxDestination, outgoing: list[Outgoing]
) -> None:
    outgoing[0].path.unlink()
    results = list(destination.upload(outgoing))
    assert errors_of(results) == [REMOTES[0]]
    assert "export it again" in str(results[0].error)


def test_a_file_too_large_for_one_request_arrives_in_pieces(
    dropbox: FakeDropbox, destination: DropboxDestination, tmp_path: Path
) -> None:
    large = Outgoing(tmp_path / "large.parquet", "large.parquet")
    with large.path.open("wb") as file:
        file.write(b"candles")
        file.truncate(2 * SINGLE_REQUEST_BYTES + 1)
    dropbox.files[f"{ROOT}/large.parquet"] = b"an older one"
    dropbox.fail("files/upload_session/append_v2", Answer(500, "", "text/html"))
    [result] = destination.upload([large])
    assert result.error is None
    assert (result.bytes, result.content_hash) == (2 * SINGLE_REQUEST_BYTES + 1, dropbox_hash_of(large.path))
    assert dropbox.count(UPLOAD) == 0
    assert dropbox.count("files/upload_session/finish") == 1
    dropbox.capacity = 0
    large.path.write_bytes(b"")
    os.truncate(large.path, SINGLE_REQUEST_BYTES + 2)
    [refused] = destination.upload([large])
    assert "make room there" in str(refused.error)


def test_a_broken_upload_goes_on_with_the_piece_that_was_missing(
    dropbox: FakeDropbox, destination: DropboxDestination, tmp_path: Path
) -> None:
    large = Outgoing(tmp_path / "large.parquet", "large.parquet")
    large.path.write_bytes(os.urandom(SINGLE_REQUEST_BYTES + 1))
    dropbox.fail("files/upload_session/append_v2", Dropped(), Dropped())
    dropbox.fail("files/upload_session/finish", Dropped())
    [result] = destination.upload([large])
    assert result.error is None
    assert dropbox.files[f"{ROOT}/large.parquet"] == large.path.read_bytes()
    assert dropbox.count("files/upload_session/start") == 1
    # Two pieces and two breaks; the rest goes with the end.
    assert dropbox.count("files/upload_session/append_v2") == 2 + 2


def test_several_files_are_on_their_way_at_once_and_no_more_than_that(
    dropbox: FakeDropbox, waits: list[float], tmp_path: Path
) -> None:
    dropbox.seconds = 0.02
    files = exported(tmp_path, *(f"crypto/{number}.csv" for number in range(20)))
    results = list(reaching(dropbox, waits, workers=WORKERS).upload(files))
    assert [result.file for result in results] == files
    assert errors_of(results) == []
    assert len(dropbox.files) == 20
    assert 1 < dropbox.most_at_once <= WORKERS


def test_with_several_at_once_one_bad_file_still_stops_no_other(
    dropbox: FakeDropbox, waits: list[float], tmp_path: Path
) -> None:
    files = exported(tmp_path, *(f"crypto/{number}.csv" for number in range(20)))
    dropbox.fail(UPLOAD, Answer.write_refused("insufficient_space"), Answer.write_refused("too_many_write_operations"))
    results = list(reaching(dropbox, waits, workers=WORKERS).upload(files))
    assert len(errors_of(results)) == 1
    assert len(dropbox.files) == 19


def test_with_several_at_once_a_revoked_app_ends_all_of_them(
    dropbox: FakeDropbox, waits: list[float], tmp_path: Path
) -> None:
    files = exported(tmp_path, *(f"crypto/{number}.csv" for number in range(50)))
    dropbox.fail(UPLOAD, *[Answer.error(401, "user_suspended", {".tag": "user_suspended"})] * 50)
    results = list(reaching(dropbox, waits, workers=WORKERS).upload(files))
    assert len(errors_of(results)) == 50
    assert dropbox.count(UPLOAD) <= WORKERS


def test_a_token_that_lasts_needs_nothing_else(dropbox: FakeDropbox, outgoing: list[Outgoing]) -> None:
    dropbox.give_token("sl.of-the-old-kind")
    lasting = DropboxDestination(root=ROOT, access_token="sl.of-the-old-kind", session=dropbox.session())
    assert errors_of(list(lasting.upload(outgoing))) == []
    assert dropbox.count("oauth2/token") == 0
    dropbox.revoked = True
    [result] = lasting.upload(outgoing[:1])
    assert "DROPBOX_ACCESS_TOKEN" in str(result.error)
    assert "old-kind" not in str(result.error)


def everything_said(results: list[Uploaded], destination: DropboxDestination, log: pytest.LogCaptureFixture) -> str:
    said = [repr(result) + str(result.error) for result in results]
    causes = [repr(result.error.__cause__) for result in results if result.error is not None]
    return " ".join([*said, *causes, repr(destination), destination.url, log.text])


@pytest.mark.parametrize("status", [400, 401, 409, 418, 500])
def test_secrets_show_nowhere_even_where_dropbox_repeats_them(
    status: int,
    dropbox: FakeDropbox,
    destination: DropboxDestination,
    outgoing: list[Outgoing],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = f'Invalid "Bearer sl.fake-access-0" of {APP_KEY} {APP_SECRET} {REFRESH_TOKEN}'
    answer = Answer(status, echo, "text/plain")
    if status == 409:
        answer = Answer.error(409, "other", {".tag": "other"}, user_message={"text": echo})
    dropbox.fail(UPLOAD, *[answer] * ATTEMPTS)
    results = list(destination.upload(outgoing))
    said = everything_said(results, destination, caplog)
    assert "files/upload" in said, "the log was watched"
    assert errors_of(results) != []
    assert dropbox.tokens == ["sl.fake-access-0"]
    for secret in (APP_KEY, APP_SECRET, REFRESH_TOKEN, "fake-access"):
        assert secret not in said


AS_DEPLOYED = """
import sys
from pathlib import Path
from refresh_pipeline.destinations import Outgoing
from refresh_pipeline.destinations.registry import open_destination
from refresh_pipeline.market.destination_spec import UploadsSpec
key, secret, token, file = sys.argv[1:]
destination = open_destination(
    UploadsSpec(),
    {"DROPBOX_APP_KEY": key, "DROPBOX_APP_SECRET": secret, "DROPBOX_REFRESH_TOKEN": token},
    upload_url="dropbox:///Apps/refresh",
    default_folder=Path("unused"),
)
[result] = destination.upload([Outgoing(Path(file), "crypto/a.csv")])
print(result.error or result.content_hash)
"""
EACH_BY_ITSELF = """
import sys
from pathlib import Path
from refresh_pipeline.destinations import Outgoing
from refresh_pipeline.destinations.dropbox import DropboxDestination
key, secret, token, file, count = sys.argv[1:]
destination = DropboxDestination(key, secret, token, "/Apps/refresh", sleep=lambda seconds: None)
for number in range(int(count)):
    [result] = destination.upload([Outgoing(Path(file), f"crypto/{number}.csv")])
    print(str(result.error).replace(chr(10), " "))
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for the loopback, made on the spot, in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed: no certificate can be made")
    pem = tmp_path_factory.mktemp("tls") / "loopback.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run([*command, "-keyout", str(pem), "-out", str(pem) + ".crt"], check=True, capture_output=True)
    pem.write_text(pem.read_text() + Path(str(pem) + ".crt").read_text())
    return pem


def deployed(fake: FakeDropbox, file: Path, *arguments: str, script: str = AS_DEPLOYED, **environment: str) -> str:
    hosts = {f"DROPBOX_API_{name}": fake.address for name in ("HOST", "CONTENT_HOST", "NOTIFY_HOST")}
    quiet = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    return subprocess.run(
        [sys.executable, "-c", script, APP_KEY, APP_SECRET, REFRESH_TOKEN, str(file), *arguments],
        cwd=Path(__file__).resolve().parents[2],
        env=os.environ | hosts | quiet | environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def test_as_deployed_it_speaks_tls_and_renews_its_token(
    certificate: Path, outgoing: list[Outgoing], tmp_path: Path
) -> None:
    with FakeDropbox(certificate) as fake:
        said = deployed(fake, outgoing[0].path, REQUESTS_CA_BUNDLE=f"{certificate}.crt")
        assert said == dropbox_hash_of(outgoing[0].path)
        assert fake.files == {"/Apps/refresh/crypto/a.csv": outgoing[0].path.read_bytes()}
        assert fake.count("oauth2/token") == 1


def test_as_deployed_each_refusal_is_told_over_tls_as_well(certificate: Path, outgoing: list[Outgoing]) -> None:
    with FakeDropbox(certificate) as fake:
        for fault, kind, _ in REFUSALS.values():
            fake.fail(UPLOAD, *[fault] * (ATTEMPTS if kind is TransientUploadError else 1))
        told = deployed(
            fake,
            outgoing[0].path,
            str(len(REFUSALS)),
            script=EACH_BY_ITSELF,
            REQUESTS_CA_BUNDLE=f"{certificate}.crt",
        ).splitlines()
    for (name, (_, _, words)), line in zip(REFUSALS.items(), told, strict=True):
        assert words in line, name


class _EndlessPages:
    """Pages of a listing that name the same next page for ever."""

    entries: tuple[()] = ()
    has_more, cursor = True, "again"

    def files_list_folder(self, *_: object, **__: object) -> "_EndlessPages":
        return self

    def files_list_folder_continue(self, _: str) -> "_EndlessPages":
        return self


def test_a_listing_that_repeats_its_cursor_ends(destination: DropboxDestination) -> None:
    with pytest.raises(DestinationError, match="the listing repeats itself"):
        destination._listing(_EndlessPages(), "/")  # pyright: ignore[reportArgumentType]
