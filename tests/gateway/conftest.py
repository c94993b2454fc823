"""No gateway process outlives its test."""

from collections.abc import Iterator

import pytest
from gateway_kit import GatewayProcess


@pytest.fixture(autouse=True)
def no_gateway_is_left() -> Iterator[None]:
    yield
    while GatewayProcess.started:
        process = GatewayProcess.started.pop()
        if process.returncode is None:
            process.kill()
