"""A satellite receiver as NMEA on a Board's UART "gnss": a sentence pair a second while it has power."""

import asyncio

from emwire import constants

from virtual import now_ms

# 2026-11-20T06:00:00Z, at time 0 of the test.
START_S = 6 * 3600
START_TIME_S = 1795154400 - constants.TIME_EPOCH_UNIX_S


class ReceiverModel:
    def __init__(self, board, first_fix_ms=2000):
        self._uart = board.uarts["gnss"]
        self._on_ms = None
        self._first_fix_ms = first_fix_ms
        self.sky = True
        self.silent = False
        self.garbage = False
        self.starts = 0
        self.on_ms = 0
        self.latitude_minutes = 27.6720
        self.skew_s = 0
        self.dated = True
        board.outputs["gnss_power"].on_level = self._power

    def _power(self, level):
        if level:
            self.starts += 1
            self._on_ms = now_ms()
            self._task = asyncio.create_task(self._run(self.starts))
        else:
            self.on_ms += now_ms() - self._on_ms
            self._on_ms = None

    async def _run(self, start):
        while True:
            await asyncio.sleep_ms(1000 - now_ms() % 1000)
            if self._on_ms is None or start != self.starts:
                return
            if self.silent:
                continue
            if self.garbage:
                self._uart.feed(b"\x81\x7e$GPRMC,xx*00\r\n")
                continue
            seconds = START_S + now_ms() // 1000 + self.skew_s
            clock = "%02d%02d%02d.00" % (seconds // 3600 % 24, seconds // 60 % 60, seconds % 60)
            date = "%02d1126" % (20 + seconds // 86400) if self.dated else ""
            if self.sky and now_ms() - self._on_ms >= self._first_fix_ms:
                place = "51%07.4f,N,00006.9360,W" % self.latitude_minutes
                self._sentence("GNRMC,%s,A,%s,1.50,90.0,%s,,,A" % (clock, place, date))
                self._sentence("GNGGA,%s,%s,1,10,0.90,35.0,M,47.0,M,," % (clock, place))
                self._sentence("GNGSA,A,3,01,02,03,04,05,06,07,08,09,10,,,1.60,0.90,1.30")
            else:
                self._sentence("GNRMC,%s,V,,,,,,,%s,,,N" % (clock, date))
                self._sentence("GNGGA,%s,,,,,0,00,99.99,,,,,," % clock)

    def _sentence(self, body):
        checksum = 0
        for byte in body.encode():
            checksum ^= byte
        self._uart.feed(("$%s*%02X\r\n" % (body, checksum)).encode())
