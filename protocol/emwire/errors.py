"""The one error of everything malformed on the wire, on CPython and on MicroPython."""


class WireError(ValueError):
    """Bytes or values that are not a valid part of the protocol.

    `reason` is one word of a closed set, `offset` the byte at which the fault lies (for values to be encoded: the
    byte at which the field would have stood). Reasons of the message codecs: `short` (input ends too early; the
    offset is its length), `trailing`, `count`, `length`, `range`, `type`. Further ones come from the layers below:
    framing (`unterminated`, `delimiter`, `truncated`, `checksum`, `oversize`), `topic`, `authentication`.
    """

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(reason, offset)
        self.reason = reason
        self.offset = offset

    def __str__(self) -> str:
        return "%s at byte %d" % (self.reason, self.offset)  # noqa: UP031  (also runs on MicroPython)
