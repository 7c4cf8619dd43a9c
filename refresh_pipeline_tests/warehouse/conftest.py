"""Warehouses to begin with: prepared once, copied for each test."""

import shutil
from pathlib import Path

import pytest

from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.warehouse.warehouse_fixtures import market_of, prepared


@pytest.fixture(scope="session")
def fair(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """With the tables of the market `fair`, and nothing in them; to be copied."""
    return prepared(tmp_path_factory.mktemp("fair"), market_of())


@pytest.fixture
def warehouse(fair: Warehouse, tmp_path: Path) -> Warehouse:
    """With the tables of the market `fair`, and nothing in them."""
    return Warehouse(database=str(shutil.copy(fair.database, tmp_path)), patience=30)
