"""Deletes the export files of series that have no candles any more. Uploaded files stay where they are."""

from pathlib import Path

from refresh_pipeline.market.model import Market
from refresh_pipeline.warehouse.warehouse import Warehouse


def delete_files(warehouse: Warehouse, market: Market, root: Path) -> list[str]:
    """Delete these files below the folder of exports; gives a sentence for the deleted and for the uploaded ones."""
    files = warehouse.drop_files(market)
    for path in files.exported:
        (root / path).unlink(missing_ok=True)
    sentences = {
        f"export files deleted: {len(files.exported):,}": files.exported,
        f"uploaded files that stay at their destinations: {len(files.uploaded):,}": files.uploaded,
    }
    return [sentence for sentence, paths in sentences.items() if paths]
