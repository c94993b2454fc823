"""A radio in memory with MicroPython's interface: what is sent is kept, what is heard is fed in."""

import asyncio

IRQ_IN_LOOP = True
FLAG_WRITE = 8
FLAG_WRITE_NO_RESPONSE = 4
FLAG_NOTIFY = 16
KEPT = 500  # advertisements that a check can look back on
_SCAN_RESULT = 5
_SCAN_DONE = 6


class UUID:
    def __init__(self, value):
        self.value = value


class BLE:
    def __init__(self):
        self._active = False
        self._handler = None
        self.advertised = []  # (interval us, data, connectable)
        self.addresses = 0  # how often a new one was drawn
        self._advertising = False
        self.scanning = False
        self._scan = None
        self.refuses = False
        # Address modes that the stack below knows: NimBLE 0 to 3, BTstack 0 and 1, Zephyr none.
        self.address_modes = (0, 1, 2, 3)

    def active(self, on=None):
        if on is not None:
            self._active = on
        return self._active

    def config(self, *names, **settings):
        if names == ("mac",):
            return 1, b"\xc0\1\2\3\4\5"
        mode = settings.get("addr_mode")
        if mode is not None:
            assert not self._advertising, "a controller refuses that"
            if mode not in self.address_modes:
                raise OSError(22)
            self.addresses += 1

    def irq(self, handler):
        self._handler = handler

    def gap_advertise(self, interval_us, adv_data=None, resp_data=None, connectable=True):
        if self.refuses:
            raise OSError(19)
        self._advertising = interval_us is not None
        if not self._advertising:
            return
        self.advertised.append((interval_us, bytes(adv_data), connectable))
        del self.advertised[:-KEPT]

    def gap_scan(self, duration_ms, interval_us=0, window_us=0, active=False):
        if self.refuses:
            raise OSError(19)
        was, self.scanning = self.scanning, duration_ms is not None
        if self._scan is not None:
            self._scan.cancel()
            self._scan = None
        if self.scanning:
            self._scan = asyncio.create_task(self._end_scan(duration_ms))
        elif was:
            self._handler(_SCAN_DONE, None)

    async def _end_scan(self, duration_ms):
        await asyncio.sleep_ms(duration_ms)
        self._scan = None
        self.scanning = False
        self._handler(_SCAN_DONE, None)

    def gatts_register_services(self, services):
        return ((1, 2),)

    def gatts_set_buffer(self, handle, size):
        pass

    def hear(self, address, rssi_dbm, data):
        if self.scanning:
            self._handler(_SCAN_RESULT, (0, memoryview(address), 0, rssi_dbm, memoryview(data)))
