# A radio as boards have it, as far as drivers can tell: interrupts run between two byte codes (micropython.schedule).
import micropython

FLAG_READ = 2
FLAG_WRITE_NO_RESPONSE = 4
FLAG_WRITE = 8
FLAG_NOTIFY = 16


class UUID:
    def __init__(self, value):
        self.value = value


class BLE:
    def __init__(self):
        self.handler = None
        self.on = False
        self.advertising = None
        self.scan = None
        self.values = {}
        self.sizes = {}
        self.notified = []
        self.refuse = 0
        self.disconnected = []

    def active(self, on=None):
        if on is not None:
            self.on = bool(on)
        return self.on

    def config(self, *names, **values):
        if "mtu" in values:
            raise OSError(95)  # as Zephyr's binding does; the exchange counts

    def irq(self, handler):
        self.handler = handler

    def interrupt(self, event, data):
        micropython.schedule(lambda _: self.handler(event, data), None)

    def gap_advertise(self, interval_us, adv_data=None, resp_data=None, connectable=True):
        self.advertising = None if interval_us is None else (interval_us, adv_data, resp_data, connectable)

    def gap_scan(self, duration_ms, interval_us=0, window_us=0, active=False):
        self.scan = None if duration_ms is None else (duration_ms, interval_us, window_us, active)

    def gap_disconnect(self, connection):
        self.disconnected.append(connection)
        return True

    def gatts_register_services(self, services):
        return ((11, 13),)

    def gatts_set_buffer(self, handle, size, append=False):
        self.sizes[handle] = size

    def gatts_read(self, handle):
        return self.values[handle][: self.sizes.get(handle, 20)]

    def gatts_notify(self, connection, handle, data):
        if self.refuse:
            self.refuse -= 1
            raise OSError(12)
        self.notified.append((connection, handle, bytes(data)))

    def write(self, connection, handle, data):
        self.values[handle] = data
        self.interrupt(3, (connection, handle))
