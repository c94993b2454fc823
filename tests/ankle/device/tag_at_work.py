"""An ankle tag on the in-memory board with receiver and modem models, and orders and commands told to it directly."""

import asyncio

from at_work import BODY, AtWork
from emwire import constants
from emwire.positions import decode_block
from modem_model import ModemModel
from receiver_model import START_TIME_S, ReceiverModel
from tags.ankle_gps import AnkleGps
from virtual import now_ms

MINUTE = 60000
HOUR = 3600000
MICRODEGREES_A_METRE = 8.9932
# The receiver model's place.
LATITUDE = 51461200
LONGITUDE = -115600
CLOCK = b'+CCLK: "26/11/20,06:00:05+00"'


class Tag(AtWork):
    """`covered`: whether the modem finds a network."""

    def __init__(self, folder, covered=False, **identity):
        AtWork.__init__(self, folder, "ankle_gps", **identity)
        self.modem = ModemModel(self.board)
        if covered:
            self.modem.clock = CLOCK
        else:
            self.modem.registers_after_ms = None
            self.modem.clock = b'+CCLK: "80/01/06,00:00:00+00"'
        self.receiver = ReceiverModel(self.board)

    def start(self):
        self.tag = AnkleGps(self.board)
        self.device = self.tag.device
        self._task = asyncio.create_task(self.tag.run())
        return self

    def tell(self, *message):
        """A down message, as the link would hand it over."""
        self.device._on_message(message)

    def order(self, version, *zones, ends_s=0):
        """zones: (type, points, radius, vertices)."""
        self.tell(constants.MESSAGE_ORDER_CONDITIONS, 1, version, len(zones), 0, ends_s, 0, 0, 0, 0, 0, 0, 0, 0, ())
        for number, (kind, points, radius, vertices) in enumerate(zones):
            shape = constants.SHAPE_CIRCLE if radius else constants.SHAPE_POLYGON
            self.tell(
                constants.MESSAGE_ORDER_ZONE, 1, version, number, kind, shape, 0, 0, points, radius, 0, 1, vertices
            )

    def north(self, metres):
        """The wearer is so far north of where they began."""
        self.receiver.latitude_minutes = 27.6720 + metres * MICRODEGREES_A_METRE * 60 / 1000000

    def fixes(self):
        """In records, then on flash."""
        found = []
        for record in self.records(constants.MESSAGE_POSITION_BLOCK):
            found += decode_block(record[BODY])
        return found

    def kinds(self):
        return [event[0] for event in self.events()]


def seconds(time_s):
    """Since the start of the test."""
    return time_s - START_TIME_S


def now_s():
    return now_ms() // 1000
