# What a u-blox receiver is told: NAV-PVT and its interference reports instead of NMEA, and to sleep between positions.
#
# Each message is sent the old way (to M8: CFG-MSG, CFG-PM2, CFG-RXM) and the new (from M9: CFG-VALSET); a receiver
# refuses the one that it does not know. All of it is in RAM: power-off forgets it. A receiver of another make ignores
# it. Numbers after u-blox 8/M8 Receiver Description R28 and the M10 SPG 5.10 Interface Description.
import struct

from drivers import ubx

_CFG_MSG = 0x0601
_CFG_VALSET = 0x068A
_CFG_RXM = 0x0611
_CFG_PM2 = 0x063B
_CFG_ITFM = 0x0639
# CFG-VALSET, version 0, layer RAM.
_VALSET_HEAD = b"\0\x01\0\0"
_KEY_NMEA_OUT_UART1 = 0x10740002
_KEY_NAV_PVT_UART1 = 0x20910007
_KEY_MON_RF_UART1 = 0x2091035A
_KEY_INTERFERENCE = 0x1041000D
_KEY_OPERATE_MODE = 0x20D00001
_KEY_UPDATE_PERIOD_S = 0x40D00002
_KEY_ACQUISITION_PERIOD_S = 0x40D00003
_KEY_WAIT_FOR_TIME = 0x10D00009
_KEY_UPDATE_EPHEMERIS = 0x10D0000A
# GGA, GLL, GSA, GSV, RMC, VTG, ZDA: all that a receiver sends unasked.
_NMEA_IDS = (0, 1, 2, 3, 4, 5, 8)
# Interference is looked at once in so many navigation epochs.
_INTERFERENCE_EVERY = 5
# The values that u-blox's own tool writes, interference monitor switched on.
_ITFM = struct.pack("<II", 0xAD62ACF3, 0x0000431E)
# CFG-PM2 flags: wait for a time fix, keep orbits fresh; mode bits 17-18: 0 on/off.
_PM2_FLAGS = 1 << 10 | 1 << 12
# A sleeping receiver wakes at an edge on its input, and loses the bytes of the next 100 ms (integration manual).
WAKE = b"\xff"
WAKE_MS = 150


def _set(*pairs) -> bytes:
    payload = _VALSET_HEAD
    for key, value in pairs:
        # The size is in the key's bits 28-30: 1 bit, 1, 2, 4 bytes.
        payload += struct.pack("<I", key) + value.to_bytes((1, 1, 2, 4)[(key >> 28 & 7) - 1], "little")
    return ubx.message(_CFG_VALSET, payload)


def binary() -> bytes:
    """NAV-PVT once per solution and interference reports, and nothing else."""
    out = ubx.message(_CFG_MSG, b"\x01\x07\x01") + ubx.message(_CFG_MSG, bytes((0x0A, 0x09, _INTERFERENCE_EVERY)))
    out += ubx.message(_CFG_ITFM, _ITFM)
    for number in _NMEA_IDS:
        out += ubx.message(_CFG_MSG, bytes((0xF0, number, 0)))
    return out + _set(
        (_KEY_NAV_PVT_UART1, 1),
        (_KEY_MON_RF_UART1, _INTERFERENCE_EVERY),
        (_KEY_INTERFERENCE, 1),
        (_KEY_NMEA_OUT_UART1, 0),
    )


def every(period_s: int, search_s: int) -> bytes:
    """Sleep between positions, one every period_s; after a search in vain, search again every search_s."""
    pm2 = struct.pack("<BBBBIIIIHH", 1, 0, 0, 0, _PM2_FLAGS, period_s * 1000, search_s * 1000, 0, 0, 0) + bytes(20)
    return (
        ubx.message(_CFG_PM2, pm2)
        + ubx.message(_CFG_RXM, b"\x08\x01")
        + _set(
            (_KEY_UPDATE_PERIOD_S, period_s),
            (_KEY_ACQUISITION_PERIOD_S, search_s),
            (_KEY_WAIT_FOR_TIME, 1),
            (_KEY_UPDATE_EPHEMERIS, 1),
            (_KEY_OPERATE_MODE, 1),
        )
    )


def always() -> bytes:
    """Full power again."""
    return ubx.message(_CFG_RXM, b"\x08\x00") + _set((_KEY_OPERATE_MODE, 0))
