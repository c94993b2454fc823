"""The one error for anything malformed on the wire, on CPython and MicroPython."""


class WireError(ValueError):
    """Malformed data: why (`reason`) and where (`offset`, in bytes from the start)."""

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(reason, offset)
        self.reason = reason
        self.offset = offset
