"""One stocked shop and its server for all tests that only read."""

from collections.abc import Iterator

import httpx
import pytest

from refresh_pipeline_tests.api.served import Shop, served


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop.stocked(tmp_path_factory.mktemp("api") / "shop", REFRESH_API_RATE="100000")


@pytest.fixture(scope="session")
def client(shop: Shop) -> Iterator[httpx.Client]:
    with served(shop) as client:
        yield client
