"""What goes down to devices besides time, configuration and acknowledgements: where it comes from, and when it leaves.

Anything that has messages for devices is a Source. A session asks the Downlink at every contact what is due, seals and
sends it, and tells it every record that was committed, so that sources see what became of it.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from emwire import codec

LONGEST_MESSAGE = 1006
"""A datagram's 1024 bytes less device id (4), frame header (6) and tag (8)."""
FLUSH_MESSAGES = 16
"""Messages of all sources in one flush: with 48 down counters in reserve, acknowledgements keep two thirds of them; and
16 KiB are 1.5 s of a serial line at 115,200 Bd, so that time and acknowledgements are never long behind."""


class Due(NamedTuple):
    """One message to be sent now. `sent` is called once the link has taken its frame, and only then."""

    message: bytes
    sent: Callable[[], None]


class Source(Protocol):
    """Something that has messages for devices. All calls come from the event loop and must be quick."""

    def wants(self, device_id: int) -> bool:
        """Whether `due` would give something. Called for every frame that comes: a look into a dictionary."""
        ...

    def due(self, device_id: int, room: int) -> list[Due]:
        """At most `room` messages to be sent now. What is not reported as sent is asked for again."""
        ...

    def observed(self, device_id: int, message: codec.Message) -> None:
        """A record of the device was committed for the first time (it may be the answer to something)."""
        ...


class Downlink:
    """All sources of a gateway, in order of precedence."""

    def __init__(self) -> None:
        self._sources: list[Source] = []
        self._nudge: Callable[[int], None] = lambda device_id: None

    def add(self, source: Source) -> None:
        """Behind those that were added before."""
        self._sources.append(source)

    def attach(self, nudge: Callable[[int], None]) -> None:
        """By the sessions: what to call when a device should be looked after without waiting for its next frame."""
        self._nudge = nudge

    def nudge(self, device_id: int) -> None:
        """A source has something for this device. Harmless when the device is away: it is asked at its next contact."""
        self._nudge(device_id)

    def wants(self, device_id: int) -> bool:
        """Whether anything is to be sent to the device now."""
        for source in self._sources:  # noqa: SIM110 (for every frame: a third of what any() and a generator take)
            if source.wants(device_id):
                return True
        return False

    def due(self, device_id: int, room: int) -> list[Due]:
        """At most `room` messages, those of the first source first."""
        found: list[Due] = []
        for source in self._sources:
            if len(found) >= room:
                break
            found += source.due(device_id, room - len(found))
        return found[:room]

    def observed(self, device_id: int, message: codec.Message) -> None:
        """Tell every source of a committed record."""
        for source in self._sources:
            source.observed(device_id, message)
