"""A u-blox receiver's own language: what it is told, what it answers, NAV-PVT and interference reports.

After u-blox 8/M8 Receiver Description R28 and the M10 SPG 5.10 Interface Description. "m8" knows the old configuration
messages and refuses CFG-VALSET, "m10" the other way round.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime

SYNC = b"\xb5\x62"
_VALSET, _ACK, _NAK = 0x068A, 0x0501, 0x0500
_NAV_PVT, _MON_HW, _MON_RF = 0x0107, 0x0A09, 0x0A38
_NMEA_IDS = {0, 1, 2, 3, 4, 5, 8}


@dataclass(frozen=True, slots=True)
class Sky:
    """What a receiver would find out at a moment; degrees, km/h. `fix` False: no view of the sky."""

    latitude: float
    longitude: float
    speed_kph: float = 0.0
    direction: float = 0.0
    satellites: int = 11
    hdop: float = 0.9
    fix: bool = True


class Commands:
    """The configuration, in RAM, and the parser of what changes it."""

    def __init__(self, generation: str) -> None:
        self._old = {"m8": True, "m10": False}[generation]
        self.forget()

    def forget(self) -> None:
        """Power-off."""
        self.solutions = False
        self.interference_every = 0
        self.power_save = False
        self.period_ms = 1000
        self.search_ms = 10_000
        self._silenced: set[int] = set()
        self._monitor = False
        self._buffer = b""

    @property
    def nmea(self) -> bool:
        """Whether it still sends sentences."""
        return not self._silenced >= _NMEA_IDS

    def feed(self, data: bytes) -> bytes:
        """Take bytes in pieces of any size; the answers to the messages they complete."""
        self._buffer += data
        answers = b""
        while (start := self._buffer.find(SYNC)) >= 0:
            head = self._buffer[start : start + 6]
            if len(head) < 6:
                break
            length = int.from_bytes(head[4:6], "little")
            whole = self._buffer[start : start + length + 8]
            if len(whole) < length + 8:
                break
            class_id = head[2] << 8 | head[3]
            if message(class_id, whole[6:-2]) == whole:
                self._buffer = self._buffer[start + len(whole) :]
                known = self._take(class_id, whole[6:-2])
                answers += message(_ACK if known else _NAK, head[2:4])
            else:
                self._buffer = self._buffer[start + 2 :]
        return answers

    def interference(self, state: int, indicator: int) -> bytes:
        """MON-HW or MON-RF; a monitor that is off knows no state."""
        state = state if self._monitor else 0
        if self._old:
            payload = bytearray(60)
            struct.pack_into("<HH", payload, 16, 90, 4000)
            payload[22], payload[45] = state << 2, indicator
            return message(_MON_HW, bytes(payload))
        block = bytearray(24)
        block[1], block[16] = state, indicator
        struct.pack_into("<HH", block, 12, 90, 4000)
        return message(_MON_RF, bytes((0, 1, 0, 0)) + bytes(block))

    def _take(self, class_id: int, payload: bytes) -> bool:
        if class_id == _VALSET:
            return not self._old and self._values(payload[4:])
        if not self._old:
            return False
        if class_id == 0x0601 and len(payload) == 3:
            return self._rate(payload[0] << 8 | payload[1], payload[2])
        if class_id == 0x0639 and len(payload) == 8:
            self._monitor = bool(payload[3] & 0x80)
        elif class_id == 0x063B and len(payload) == 44:
            self.period_ms, self.search_ms = struct.unpack_from("<II", payload, 8)
        elif class_id == 0x0611 and len(payload) == 2:
            self.power_save = payload[1] == 1
        else:
            return False
        return True

    def _rate(self, class_id: int, rate: int) -> bool:
        if class_id == _NAV_PVT:
            self.solutions = bool(rate)
        elif class_id == _MON_HW:
            self.interference_every = rate
        elif class_id >> 8 == 0xF0:
            (self._silenced.discard if rate else self._silenced.add)(class_id & 0xFF)
        else:
            return False
        return True

    def _values(self, data: bytes) -> bool:
        while data:
            key = int.from_bytes(data[:4], "little")
            size = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8}[key >> 28 & 7]
            value = int.from_bytes(data[4 : 4 + size], "little")
            data = data[4 + size :]
            match key:
                case 0x10740002:
                    self._silenced = set() if value else set(_NMEA_IDS)
                case 0x20910007:
                    self.solutions = bool(value)
                case 0x2091035A:
                    self.interference_every = value
                case 0x1041000D:
                    self._monitor = bool(value)
                case 0x20D00001:
                    self.power_save = value == 1
                case 0x40D00002:
                    self.period_ms = value * 1000
                case 0x40D00003:
                    self.search_ms = value * 1000
                case 0x10D00009 | 0x10D0000A:
                    pass
                case _:
                    return False
        return True


def message(class_id: int, payload: bytes) -> bytes:
    """A whole message with its checksum."""
    body = class_id.to_bytes(2, "big") + struct.pack("<H", len(payload)) + payload
    first = second = 0
    for byte in body:
        first = (first + byte) & 0xFF
        second = (second + first) & 0xFF
    return SYNC + body + bytes((first, second))


def ubx_epoch(unix_ms: int, sky: Sky, fix: bool) -> bytes:
    """One UBX-NAV-PVT (u-blox M8 protocol specification, 92 bytes of payload)."""
    moment = datetime.fromtimestamp(unix_ms / 1000, UTC)
    payload = struct.pack(
        "<IHBBBBBBIiBBBBiiiiIIiiiiiIIHHIiI",
        unix_ms % 604_800_000,
        moment.year,
        moment.month,
        moment.day,
        moment.hour,
        moment.minute,
        moment.second,
        0x07,
        50,
        moment.microsecond * 1000,
        3 if fix else 0,
        0x01 if fix else 0,
        0,
        sky.satellites if fix else 0,
        round(sky.longitude * 1e7) if fix else 0,
        round(sky.latitude * 1e7) if fix else 0,
        82_000,
        35_000,
        round(sky.hdop * 2_500),
        4_000,
        0,
        0,
        0,
        round(sky.speed_kph / 3.6 * 1000),
        round(sky.direction * 1e5),
        200,
        500_000,
        round(sky.hdop * 170),
        0,
        0,
        0,
        0,
    )
    return message(0x0107, payload)
