"""What a link is: it moves sealed frames between devices and sessions and knows nothing of what is inside them."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from emwire import codec

Received = Callable[["Link", int, bytes], "asyncio.Future[bool]"]
"""Called in the event loop for every frame: (link, device_id, sealed frame). Never raises and never blocks.

The future is done once the frame has been dealt with: True when it is committed, or refused for good; False
when it could not be stored and the device must send it again. It never carries an exception, so a link without
an acknowledgement of its own may ignore it, or use it to bound how many frames it has under way."""


class Link(Protocol):
    """One way in: a serial port, a broker, a BLE adapter."""

    name: str
    """What logs, counters and status call it, for example "serial:/dev/ttyUSB0"."""
    kind: str
    """What a record's `link` field says: "serial", "mqtt" or "ble"."""
    up: asyncio.Event
    """Set while frames can flow; cleared when they cannot."""
    counters: "Counter[str]"
    """Everything dropped here, by reason (snake_case)."""

    async def run(self) -> None:
        """Move frames until cancelled. OSError = lost; the daemon restarts this link alone, with back-off."""

    async def send(self, device_id: int, frame: bytes) -> bool:
        """Hand one sealed frame to the transport; False when the device is not reachable here now. Never raises."""
        ...

    def proven(self, device_id: int) -> None:
        """An authentic frame of the device came over this link that never came before: it is no recording."""
        ...


class Events(Protocol):
    """Where a link tells what the backend should know: emgate.own_records.OwnRecords."""

    def event(
        self, event_type: int, *, subject_id: int = 0, value: int = 0, evidence: bytes = b"", alarm: bool = False
    ) -> None:
        """Never blocks, never raises. For changes of state only: the caller limits how often."""

    def add(self, make: "Callable[[int, int, int, int], codec.Message]", *, alarm: bool = False) -> None:
        """Any record, made from the four fields that every record begins with. Never blocks, never raises."""
