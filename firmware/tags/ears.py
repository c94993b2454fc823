# How long a unit listened for beacons and was deaf, over all scans, and the ledger records that say so.
from drivers.beacon_radio import BeaconScanner
from emwire import constants


class Ears:
    """A scanner whose accounts go on when its duty is changed; ledger() gives one period's record."""

    def __init__(self, device, on_advertisement, accept):
        self._device = device
        self._on_advertisement = on_advertisement
        self._accept = accept
        self._scanner = BeaconScanner(device.board.ble(), device.board.clock)
        self._listened_ms = 0  # of scans before the present one
        self._spared_ms = 0
        self._duty_percent = 100
        self._period_ms = device.ticks_ms()
        self._period_listened_ms = self._period_spared_ms = 0
        self._refused = self._restarts = 0

    def start(self, duty_percent: int):
        """Listen for this share of the time from now on."""
        self.stop()
        self._duty_percent = duty_percent
        self._scanner.start(self._on_advertisement, duty_percent, self._accept)

    def stop(self):
        scanner = self._scanner
        scanner.stop()
        self._listened_ms += scanner.listened_ms()
        self._spared_ms += self._spared(scanner.listened_ms())
        # Stopped, its accounts stay as they are: count them once.
        scanner.forget()

    def listened_ms(self) -> int:
        return self._listened_ms + self._scanner.listened_ms()

    def spared_ms(self) -> int:
        """Deaf on purpose, to spare the battery."""
        return self._spared_ms + self._spared(self._scanner.listened_ms())

    def _spared(self, listened_ms):
        return listened_ms * (100 - self._duty_percent) // self._duty_percent

    @property
    def duty_percent(self) -> int:
        return self._duty_percent

    def troubles(self) -> tuple:
        """Scans that were refused, and scans that the radio ended, modulo 65536."""
        return self._scanner.refused & 0xFFFF, self._scanner.restarts & 0xFFFF

    def ledger(self) -> tuple:
        """Fields of the listening record of the period that ends now, and begin the next."""
        now = self._device.ticks_ms()
        scanner = self._scanner
        length_ms = now - self._period_ms
        listened_ms = min(self.listened_ms() - self._period_listened_ms, length_ms)
        spared_ms = min(self.spared_ms() - self._period_spared_ms, length_ms - listened_ms)
        deaf_s = (length_ms - listened_ms - spared_ms) // 1000
        cause = constants.DEAF_NONE
        if deaf_s:
            # The radio said no, ended scans by itself, or nobody knows.
            cause = constants.DEAF_FAULT if scanner.refused > self._refused else constants.DEAF_UNKNOWN
            if cause == constants.DEAF_UNKNOWN and scanner.restarts > self._restarts:
                cause = constants.DEAF_BUSY
        receivers = [(constants.RECEIVER_BLE, _u16(listened_ms // 1000), _u16(deaf_s), cause)]
        if spared_ms >= 1000:
            receivers.append((constants.RECEIVER_BLE, 0, _u16(spared_ms // 1000), constants.DEAF_NO_POWER))
        start_s = self._device.clock.time_at(self._period_ms)
        self._period_ms = now
        self._period_listened_ms = self.listened_ms()
        self._period_spared_ms = self.spared_ms()
        self._refused, self._restarts = scanner.refused, scanner.restarts
        return start_s, _u16(length_ms // 1000), tuple(receivers)


def _u16(value):
    return min(value, 65535)
