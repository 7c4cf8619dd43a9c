"""Upload export files to a destination, series by series. No Dagster.

How a destination is reached, and what it does when something goes wrong, is `refresh_pipeline.destinations`' part.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from refresh_pipeline.destinations import Destination, Outgoing, Uploaded
from refresh_pipeline.destinations.upload_url import OFF
from refresh_pipeline.market.destination_spec import FileSpec
from refresh_pipeline.market.export_spec import ALL_INSTRUMENTS, Format, Layer
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.pipeline.export_content import wanted_files
from refresh_pipeline.pipeline.export_dataset import all_of
from refresh_pipeline.pipeline.progress import advance
from refresh_pipeline.warehouse.manifests import Exported, Published
from refresh_pipeline.warehouse.outcomes import Attempt
from refresh_pipeline.warehouse.warehouse import Warehouse


def remotes(
    market: Market, spec: FileSpec, batch: Sequence[Series], manifest: Mapping[str, Exported]
) -> dict[str, Exported]:
    """What belongs to a destination: by the name it has there, the file as it was last exported.

    Files that the market's YAML asks for no longer are left out.
    """
    found = {}
    for row in manifest.values():
        export = market.exports.get(row.export or "")
        if row.series.instrument == ALL_INSTRUMENTS and export is not None and spec.takes(export.name):
            what = Layer(row.layer or ""), Format(row.format)
            found[spec.place_of(market.name, export, row.path, row.series, what)] = row
    for series in batch:
        for file in wanted_files(market, series):
            if spec.takes(file.export.name) and file.path in manifest:
                remote = spec.path_of(market.name, file.export, file.layer, series, file.kind)
                found[remote] = manifest[file.path]
    return found


def upload(
    warehouse: Warehouse,
    market: Market,
    spec: FileSpec,
    batch: Sequence[Series],
    *,
    root: Path,
    destination: Destination | None,
    now: datetime,
) -> dict[Series, Attempt]:
    """Bring every export file of the batch to the destination, unless the same content is there already.

    Where there is none, uploads are off: no series has failed then, and each says so.
    """
    if destination is None:
        off = Attempt.of(remark=OFF, changed=False, has_data=True, metadata={"uploads": OFF})
        return dict.fromkeys(batch, off)
    with warehouse.session(market.name):
        manifest = {each.path: each for each in warehouse.exported(market, with_datasets(batch))}
        known = {each.path: each for each in warehouse.uploaded(market, spec.name, with_datasets(batch))}
    files = remotes(market, spec, batch, manifest)
    answers: dict[Series, list[Uploaded]] = {series: [] for series in batch}
    arrived: list[Published] = []
    outgoing = [Outgoing(root / file.path, remote, _known_hash(file, known)) for remote, file in files.items()]
    for number, answer in enumerate(destination.upload(outgoing), start=1):
        file = files[answer.file.remote]
        for series in [file.series] if file.series in answers else sharing(file.series, batch):
            answers[series].append(answer)
        # What was there already keeps the time at which it arrived.
        if answer.error is None and (row := _published(spec, file, answer, destination)) != known.get(file.path):
            arrived.append(row)
        advance(spec.asset, number, len(outgoing))
    warehouse.record_uploads(market, arrived, now)
    return {series: _attempt(uploads) for series, uploads in answers.items()}


def with_datasets(batch: Sequence[Series]) -> list[Series]:
    """The series of a batch, and what manifests have in place of one for files of all instruments."""
    return [*batch, *(all_of(timeframe) for timeframe in dict.fromkeys(series.timeframe for series in batch))]


def sharing(file: Series, batch: Sequence[Series]) -> list[Series]:
    """The series of a batch whose rows lie in a file of all instruments."""
    return [series for series in batch if series.timeframe is file.timeframe]


def _known_hash(file: Exported, known: Mapping[str, Published]) -> str:
    uploaded = known.get(file.path)
    return uploaded.content_hash if uploaded is not None and uploaded.sha256 == file.sha256 else ""


def _published(spec: FileSpec, file: Exported, answer: Uploaded, destination: Destination) -> Published:
    return Published(
        file.series,
        spec.name,
        file.format,
        file.path,
        answer.url,
        answer.bytes,
        file.sha256,
        answer.content_hash,
        destination.hash_name,
    )


def _attempt(uploads: Sequence[Uploaded]) -> Attempt:
    failed = [upload for upload in uploads if upload.error is not None]
    sent = [upload for upload in uploads if upload.error is None and not upload.skipped]
    return Attempt.of(
        reasons=[f"{upload.file.remote}: {upload.error}" for upload in failed],
        transient=any(upload.error.transient for upload in failed if upload.error),
        changed=bool(sent),
        has_data=bool(uploads),
        metadata={
            "files_sent": len(sent),
            "files_unchanged": len(uploads) - len(sent) - len(failed),
            "bytes": sum(upload.bytes for upload in sent),
        },
    )
