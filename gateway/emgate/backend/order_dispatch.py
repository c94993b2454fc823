"""Keeps every device that is on somebody told of its wearer's order: versions, when to send, when to send again."""

from emgate.backend.ingest import Backend
from emgate.clock import Clock


class OrderDispatch:
    """Looked after by whoever runs a backend."""

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self._backend = backend
        self._clock = clock

    def look_after(self) -> None:
        """Cheap when nothing changed."""
