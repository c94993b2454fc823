# Fixes on their way into position blocks, and spans without a fix. Sans-IO.
import struct

from emwire import constants, positions

# Fixes in a block; field rule is one a minute, so that a block holds an hour at most.
MAXIMUM_FIXES = 60
# The wire's limit of a block. Real trails take some 15 bytes a fix with all columns; a wild one is halved.
MAXIMUM_BLOCK = constants.LONGEST_POSITION_BLOCK
# A span without a fix is told when it begins, every hour while it lasts, and when it ends.
REPEAT_MS = 3600000
# attempts u16 (saturating), cause u8 (drivers.fixes.CAUSE_…), ended u8
EVIDENCE_FORMAT = "<HBB"


def blocks(fixes: list) -> list:
    """(how many, encoded block) of all these fixes, in order."""
    block = positions.encode_block(fixes, positions.ALL)
    if len(block) <= MAXIMUM_BLOCK or len(fixes) == 1:
        return [(len(fixes), block)]
    middle = len(fixes) // 2
    return blocks(fixes[:middle]) + blocks(fixes[middle:])


class NoFix:
    """Turns attempts into few events: (value = seconds without a fix so far, event time, evidence)."""

    def __init__(self):
        self._since_ms = None
        self._since_s = 0
        self._told_ms = 0
        self._attempts = 0
        self._cause = 0

    def failed(self, now_ms: int, now_s: int, cause: int):
        """An attempt gave no fix: an event to record, or None."""
        if self._since_ms is None:
            self._since_ms = self._told_ms = now_ms
            self._since_s = now_s
            self._attempts = 0
        elif now_ms - self._told_ms < REPEAT_MS:
            self._attempts += 1
            self._cause = cause
            return None
        self._told_ms = now_ms
        self._attempts += 1
        self._cause = cause
        return self._event(now_ms, 0)

    def fixed(self, now_ms: int):
        """An attempt gave a fix: the event that ends the span, or None."""
        if self._since_ms is None:
            return None
        event = self._event(now_ms, 1)
        self._since_ms = None
        return event

    def _event(self, now_ms, ended):
        evidence = struct.pack(EVIDENCE_FORMAT, min(self._attempts, 65535), self._cause, ended)
        return (now_ms - self._since_ms) // 1000, self._since_s, evidence
