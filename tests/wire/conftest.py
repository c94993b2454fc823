"""The MicroPython process the wire tests talk to."""

from collections.abc import Iterator

import pytest
from wire_kit import Peer


@pytest.fixture(scope="session")
def peer(micropython: str) -> Iterator[Peer]:
    peer = Peer(micropython)
    yield peer
    peer.close()
