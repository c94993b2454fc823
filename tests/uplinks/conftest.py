"""The device and the gateway process of the gateway's tests serve here too."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "gateway"))

from gateway_kit import GatewayProcess


@pytest.fixture(autouse=True)
def no_gateway_is_left() -> Iterator[None]:
    yield
    while GatewayProcess.started:
        process = GatewayProcess.started.pop()
        if process.returncode is None:
            process.kill()
