"""For the tests of shards: a small SHARDS folder."""

from __future__ import annotations

import pytest

from tests.shards.small_shards import write_shards


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_shards(tmp_path_factory.mktemp("shards"))
