"""The advertisement of the pid, and the judgement of what is heard. Runs on CPython and MicroPython.

Advertised is one AD structure: length 20, type 0xFF (manufacturer specific), company 0xFFFF (kept free by the Bluetooth
SIG for tests), version 1, and a token: one AES-128 block under the pid's beacon key of
`counter u32 | status u8 | battery_percent u8 | device_id u32 | six zero bytes`, little endian. Who lacks the key can
neither link two tokens nor make one: ten of the sixteen bytes are known to the receiver. AES is passed in as a
function on one block. A replay is seen by the counter, which never goes back: the pid reserves it in blocks and may
jump forward at a reset.
"""

import struct

from emwire import constants
from emwire.errors import WireError

try:
    from collections.abc import Callable
except ImportError:
    pass

COMPANY = 0xFFFF
VERSION = 1
TOKEN_SIZE = 16
SIZE = 21  # of the whole AD structure
AD_MANUFACTURER_SPECIFIC = 0xFF  # Bluetooth Assigned Numbers §2.3

STATUS_STRAP_OPEN = 1
STATUS_CASE_OPEN = 2
STATUS_FAULT = 4  # some part of it failed within the last hour
STATUS_STRAP_FAULT = 8  # its strap opened and closed, within the last hour, in ways that no cut does

_HEADER = bytes([SIZE - 1, AD_MANUFACTURER_SPECIFIC, 0xFF, 0xFF, VERSION])
_BLOCK = "<IBBIIH"
_LIMITS = (0xFFFFFFFF, 0xFF, 0xFF, 0xFFFFFFFF)


def build(
    block_encrypt: "Callable[[bytes], bytes]", device_id: int, counter: int, status: int, battery_percent: int
) -> bytes:
    """The AD structure to advertise; `battery_percent` 0..100, 255 unknown."""
    values = (counter, status, battery_percent, device_id)
    offset = len(_HEADER)
    for value, limit, size in zip(values, _LIMITS, (4, 1, 1, 4)):  # noqa: B905  (MicroPython has no strict)
        if type(value) is not int:
            raise WireError("type", offset)
        if not 0 <= value <= limit:
            raise WireError("range", offset)
        offset += size
    if battery_percent > 100 and battery_percent != 255:
        raise WireError("range", len(_HEADER) + 5)
    return _HEADER + block_encrypt(struct.pack(_BLOCK, counter, status, battery_percent, device_id, 0, 0))


def find(advertisement_data: bytes) -> "bytes | None":
    """The token in advertising data (a row of AD structures), if there is one."""
    index = 0
    while index + 1 < len(advertisement_data):
        length = advertisement_data[index]
        if length == 0:  # early termination of the significant part (Bluetooth Core, Vol 3 Part C, 11)
            return None
        end = index + 1 + length
        if length == SIZE - 1 and end <= len(advertisement_data):
            body = index + len(_HEADER)
            if bytes(advertisement_data[index:body]) == _HEADER:
                return bytes(advertisement_data[body:end])
        index = end
    return None


def open_token(block_decrypt: "Callable[[bytes], bytes]", device_id: int, token: bytes) -> "tuple[int, int, int]":
    """(counter, status, battery_percent); WireError("authentication") unless it is a token of that device."""
    if len(token) != TOKEN_SIZE:
        raise WireError("length", len(token))
    counter, status, battery_percent, sender, zero, also_zero = struct.unpack(_BLOCK, block_decrypt(token))
    if sender != device_id or zero or also_zero:
        raise WireError("authentication", 0)
    return counter, status, battery_percent


class BeaconWatch:
    """Judges the counters heard of one pid. Memory is bounded by `remembered` counters.

    A token is advertised many times, so a counter may be heard again for `copy_grace_s` after it was first heard.
    Later it is COPIED if it is still the newest (somebody keeps the last token alive) and REPLAYED if newer ones
    were heard. A counter not heard before may be up to `window` behind for as long; further behind it is REPLAYED.
    Once the counters behind advance while the newest advance too, two senders are on the air: COPIED.
    A copy that is relayed at once, or recorded where nobody listened and played before the pid is heard again, looks
    authentic: counters alone cannot tell.
    """

    def __init__(
        self,
        device_id: int,
        copy_grace_s: int = 30,
        window: int = 2,
        remembered: int = 16,
        newest_counter: int = -1,
    ) -> None:
        """`newest_counter`: what was known before a restart, -1 for nothing."""
        self.device_id = device_id
        self.newest_counter = newest_counter
        self.authentic = 0
        self.copied = 0
        self.replayed = 0
        self._grace_ms = copy_grace_s * 1000
        # Two senders at once show within a few tokens of each; later it is a second replay, not interleaving.
        self._interleave_ms = 10 * self._grace_ms
        self._window = window
        self._remembered = remembered
        self._recent: list[tuple[int, int]] = []  # (counter, first heard in ms), in order of hearing
        self._newest_ms = 0
        self._behind_counter = -1  # the last one heard behind the newest
        self._behind_ms = 0
        self._newest_then = -1  # the newest when that was heard

    def heard(self, counter: int, now_ms: int) -> int:
        """AUTHENTICITY_… of an opened token's counter, heard at monotonic `now_ms`."""
        first_ms = -1
        for known, heard_ms in self._recent:
            if known == counter:
                first_ms = heard_ms
        if first_ms >= 0:
            if now_ms - first_ms <= self._grace_ms:
                return self._judge(constants.AUTHENTICITY_AUTHENTIC)
            if counter == self.newest_counter:
                return self._judge(constants.AUTHENTICITY_COPIED)
        elif counter >= self.newest_counter:  # equal only after a restart: still on the air
            self.newest_counter = counter
            self._newest_ms = now_ms
            return self._remember(counter, now_ms)
        elif self.newest_counter - counter <= self._window and now_ms - self._newest_ms <= self._grace_ms:
            return self._remember(counter, now_ms)
        interleaved = (
            0 <= self._behind_counter < counter
            and self.newest_counter > self._newest_then
            and now_ms - self._behind_ms <= self._interleave_ms
        )
        if counter != self._behind_counter:
            self._behind_counter = counter
            self._newest_then = self.newest_counter
        self._behind_ms = now_ms
        return self._judge(constants.AUTHENTICITY_COPIED if interleaved else constants.AUTHENTICITY_REPLAYED)

    def _remember(self, counter: int, now_ms: int) -> int:
        self._recent.append((counter, now_ms))
        if len(self._recent) > self._remembered:
            del self._recent[0]
        return self._judge(constants.AUTHENTICITY_AUTHENTIC)

    def _judge(self, authenticity: int) -> int:
        if authenticity == constants.AUTHENTICITY_AUTHENTIC:
            self.authentic += 1
        elif authenticity == constants.AUTHENTICITY_COPIED:
            self.copied += 1
        else:
            self.replayed += 1
        return authenticity
