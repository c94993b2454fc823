"""A device at work on the in-memory board, and what it put on record."""

import asyncio
import os

import main
from common import segment
from emwire import constants, device_codec

import virtual

KEY = bytes(range(16))
DEVICE_ID = 0x1001
# Position of the first field behind the record header in what device_codec.decode gives.
BODY = 5


class AtWork:
    def __init__(self, folder, model, **identity):
        self.folder = folder
        identity.update({"device_id": DEVICE_ID, "model": model, "key": KEY.hex()})
        self.board = virtual.Board(folder, identity)

    def start(self):
        self._task = asyncio.create_task(main.run(self.board))
        return self

    def stop(self):
        """Power off: this task and all that it started never run again."""
        self._task.cancel()

    def records(self, kind=None):
        """Decoded records straight from flash, in the order they were made."""
        found = []
        for name in os.listdir(self.folder + "/journal"):
            epoch, alarm, _ = segment.parse_name(name)
            with open(self.folder + "/journal/" + name, "rb") as file:
                for _, sequence, payload in segment.Reader(file, alarm, epoch):
                    found.append((epoch, sequence, device_codec.decode(payload)))
        found.sort(key=lambda item: item[:2])
        return [item[2] for item in found if kind is None or item[2][0] == kind]

    def events(self, *types):
        """(event type, time, subject, value, evidence) of these types, or of all."""
        found = [record[BODY:] for record in self.records(constants.MESSAGE_EVENT)]
        return [event for event in found if not types or event[0] in types]
