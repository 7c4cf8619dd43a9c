"""Warehouses to begin with: prepared once, copied for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.lake_server import close_lakes, copied, lakes, lakes_made
from refresh_pipeline_tests.warehouse.warehouse_fixtures import market_of, prepared


@pytest.fixture(scope="session", autouse=True)
def _server_of_lakes() -> Iterator[None]:
    with lakes():
        yield


@pytest.fixture(autouse=True)
def _own_lakes(_server_of_lakes: None) -> Iterator[None]:
    """What a test made is gone after it; what a fixture of several tests made stays."""
    before = lakes_made()
    yield
    close_lakes(before)


@pytest.fixture(scope="session")
def fair(_server_of_lakes: None, tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """With the tables of the market `fair`, and nothing in them; to be copied."""
    return prepared(tmp_path_factory.mktemp("fair"), market_of())


@pytest.fixture
def warehouse(fair: Warehouse, tmp_path: Path) -> Warehouse:
    """With the tables of the market `fair`, and nothing in them."""
    return Warehouse(database=copied(fair.database, tmp_path), patience=30)
