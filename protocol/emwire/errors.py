"""The one error of everything malformed on the wire, on CPython and on MicroPython."""


class WireError(ValueError):
    """Bytes or values that are not a valid part of the protocol.

    `reason` is one word, `offset` the byte at which the fault lies (of a value to be encoded: where its field
    would have stood). The message codecs know `short` (input ends too early; the offset is its length),
    `trailing`, `count`, `length`, `range` and `type`; docs/protocol.md lists those of every layer.
    """

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(reason, offset)
        self.reason = reason
        self.offset = offset

    def __str__(self) -> str:
        return f"{self.reason} at byte {self.offset}"
