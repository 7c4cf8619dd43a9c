"""A copy of the warehouse for readers, who may keep it open for as long as they like: it locks nothing.

The file is copied as a whole under the warehouse's lock, as a backup is; decision 0104 has the figures. A new copy
takes the place of the old one: a reader that has the old one open goes on reading it.
"""

import shutil
from pathlib import Path

from refresh_pipeline.files.atomic import replacing
from refresh_pipeline.warehouse.connection import connect, place_of


def renew_snapshot(address: str | Path, snapshot: Path) -> None:
    """Copy the warehouse.

    Raises:
        ValueError: the copy would replace the warehouse itself, or the warehouse is no file.
        WarehouseBusy: another process has the file open for too long.
        WarehouseUnreadable: DuckDB cannot open the warehouse.
        OSError: the copy cannot be written.
    """
    place = place_of(address)
    if place.file is None:
        raise ValueError(f"no copy is made of {place.name}: readers of a lake hold nothing; let them read the lake")
    if snapshot.resolve() == place.file.resolve():
        raise ValueError(f"the readers' copy would replace the warehouse: found {snapshot}, allowed: another path")
    with replacing(snapshot) as part, connect(str(address)) as connection:
        # Everything is in the one file then, and stays so while the lock is ours.
        connection.execute("checkpoint")
        shutil.copyfile(place.file, part)
