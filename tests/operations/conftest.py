"""The gateway's kit, and no gateway process outlives its test."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "gateway"))

from gateway_kit import GatewayProcess


@pytest.fixture(autouse=True)
def no_gateway_is_left() -> Iterator[None]:
    yield
    while GatewayProcess.started:
        process = GatewayProcess.started.pop()
        if process.returncode is None:
            process.kill()
