"""A backend on a fresh database, and orders for it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from backend_kit import Clock
from emgate.backend.ingest import Backend
from emgate.backend.queries import Reader


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def backend(tmp_path: Path, clock: Clock) -> Iterator[Backend]:
    backend = Backend(tmp_path / "backend.db", clock)
    yield backend
    backend.close()


@pytest.fixture
def reader(backend: Backend) -> Iterator[Reader]:
    with Reader(backend.path) as reader:
        yield reader


@pytest.fixture
def load(backend: Backend, tmp_path: Path) -> Callable[[str], int]:
    def write_and_load(text: str) -> int:
        path = tmp_path / "orders.toml"
        path.write_text(text)
        return backend.load_orders(path)

    return write_and_load
