"""The home unit says what it heard, how well it listened, and who is copying whom."""

import asyncio
import struct

from cryptolib import aes
from emwire import beacon, constants
from tags import presence

from at_work import BODY, AtWork

PID = 0x3001
PID_KEY = bytes(range(16, 32))
ADDRESS = b"\xc0\x01\x02\x03\x04\x05"
THIEF = b"\xc0\xff\xff\xff\xff\xff"
MINUTE = 60000


class PidModel:
    """Sends a token twice in 10 s while it is near."""

    def __init__(self, work):
        self.radio = work.board.radio
        self.near = True
        self.counter = 5000
        self.rssi_dbm = -60
        self.status = 0
        self.sent = []
        self._encrypt = aes(PID_KEY, 1).encrypt
        self._task = asyncio.create_task(self._run())

    async def _run(self):
        while True:
            token = beacon.build(self._encrypt, PID, self.counter, self.status, 87)
            self.counter += 1
            for _ in range(2):
                self.sent.append(token)
                del self.sent[:-100]
                if self.near:
                    self.radio.hear(ADDRESS, self.rssi_dbm, token)
                await asyncio.sleep_ms(5000)


def _unit(folder, **settings):
    return _made(folder, **settings).start()


def _made(folder, **settings):
    # No gateway is there, and most checks are not about that.
    settings = dict({"wan_lost_s": 10000000, "listening_interval_s": 65535}, **settings)
    beacons = [{"beacon_id": PID, "key": "101112131415161718191a1b1c1d1e1f"}]
    return AtWork(folder, "home_unit", beacons=beacons, settings=settings)


def _presences(work):
    return [record[BODY:] for record in work.records(constants.MESSAGE_PRESENCE)]


async def check_windows_while_home(folder):
    work = _unit(folder)
    await asyncio.sleep_ms(0)
    PidModel(work)
    await asyncio.sleep_ms(61 * MINUTE)
    windows = _presences(work)
    assert len(windows) == 13, "the arrival and one in five minutes"
    for window in windows[1:]:
        (number, authenticity, _, duration, listened, deaf, count, first, last, *rest) = window
        assert (number, authenticity) == (PID, constants.AUTHENTICITY_AUTHENTIC)
        assert (duration, listened, deaf) == (300, 300, 0)
        assert 59 <= count <= 61 and first <= 10 and last >= 290
        assert tuple(rest) == (-60, -60, -60, 87, constants.STRAP_CLOSED)


async def check_absence_is_said_and_return_at_once(folder):
    work = _unit(folder)
    await asyncio.sleep_ms(0)
    pid = PidModel(work)
    await asyncio.sleep_ms(12 * MINUTE)
    pid.near = False
    await asyncio.sleep_ms(30 * MINUTE)
    absent = _presences(work)[-1]
    assert absent[1] == constants.AUTHENTICITY_UNKNOWN and absent[6:14] == (0, 65535, 65535, 127, 127, 127, 255, 255)
    assert absent[4:6] == (300, 0), "absent, not deaf"
    before = len(_presences(work))
    await asyncio.sleep_ms(MINUTE)
    pid.near = True
    await asyncio.sleep_ms(10000)
    arrived = _presences(work)[-1]
    assert len(_presences(work)) == before + 1
    assert arrived[1] == constants.AUTHENTICITY_AUTHENTIC and arrived[3] < 300 and arrived[6] == 1


async def check_deaf_is_not_absent(folder):
    work = _unit(folder)
    await asyncio.sleep_ms(0)
    PidModel(work)
    work.board.radio.refuses = True
    await asyncio.sleep_ms(31 * MINUTE)
    windows = _presences(work)
    # The scan under way when the radio began to refuse still counts.
    assert windows[-1][4:6] == (0, 300)
    deaf = work.events(constants.EVENT_RECEIVER_DEAF)
    assert len(deaf) == 1 and deaf[0][3] >= 200
    work.board.radio.refuses = False
    await asyncio.sleep_ms(11 * MINUTE)
    assert _presences(work)[-1][4:6] == (300, 0)


async def check_corrupt_rssi_is_rejected(folder):
    work = _unit(folder)
    await asyncio.sleep_ms(0)
    pid = PidModel(work)
    for rssi_dbm in (-70, 42, -50, -125, -61):
        pid.rssi_dbm = rssi_dbm
        await asyncio.sleep_ms(MINUTE)
    await asyncio.sleep_ms(30000)
    window = _presences(work)[-1]
    assert window[6] >= 58, "heard all the same"
    assert window[9] == -70 and window[11] == -50 and window[10] in (-61, -60)


async def check_strap_of_the_pid(folder):
    work = _unit(folder)
    await asyncio.sleep_ms(0)
    pid = PidModel(work)
    pid.status = beacon.STATUS_STRAP_OPEN
    await asyncio.sleep_ms(6 * MINUTE)
    assert _presences(work)[-1][13] == constants.STRAP_OPEN


async def check_fault_of_the_pid(folder):
    work = _unit(folder)
    await asyncio.sleep_ms(0)
    pid = PidModel(work)
    for _ in range(2):
        pid.status = beacon.STATUS_FAULT
        await asyncio.sleep_ms(20 * MINUTE)
        pid.status = 0
        await asyncio.sleep_ms(20 * MINUTE)
    told = work.events(constants.EVENT_SELF_TEST_FAILED)
    assert [(event[2], bytes(event[4])) for event in told] == [(PID, b"pid")] * 2, "once each time"
    assert _presences(work)[-1][13] == constants.STRAP_CLOSED, "a fault is no tamper"


async def check_strap_fault_of_the_pid(folder):
    work = _unit(folder)
    await asyncio.sleep_ms(0)
    pid = PidModel(work)
    pid.status = beacon.STATUS_STRAP_FAULT
    await asyncio.sleep_ms(20 * MINUTE)
    (told,) = work.events()
    assert (told[0], told[2], bytes(told[4])) == (constants.EVENT_STRAP_FAULT, PID, b"pid")
    assert _presences(work)[-1][13] == constants.STRAP_CLOSED, "a fault is no tamper"


async def check_copied_beacon(folder):
    work = _unit(folder)
    await asyncio.sleep_ms(0)
    pid = PidModel(work)
    await asyncio.sleep_ms(20 * MINUTE)
    pid.near = False
    recorded = pid.sent[-40:]
    await asyncio.sleep_ms(10 * MINUTE)
    for token in recorded:
        work.board.radio.hear(THIEF, -40, token)
        await asyncio.sleep_ms(5000)
    await asyncio.sleep_ms(10 * MINUTE)
    events = work.events()
    assert [event[0] for event in events] == [constants.EVENT_BEACON_COPIED], "one for the lot"
    _, _, subject, _, evidence = events[0]
    address, counter, newest, rssi_dbm, judged = struct.unpack(presence.EVIDENCE_FORMAT, bytes(evidence))
    assert (subject, address, rssi_dbm) == (PID, THIEF, -40) and counter <= newest
    assert judged in (constants.AUTHENTICITY_COPIED, constants.AUTHENTICITY_REPLAYED)
    for window in _presences(work)[-4:]:
        assert window[1] != constants.AUTHENTICITY_AUTHENTIC, "a copy does not make the wearer present"


async def check_replay_after_a_restart(folder):
    work = _unit(folder)
    await asyncio.sleep_ms(0)
    pid = PidModel(work)
    await asyncio.sleep_ms(3 * MINUTE)
    recorded = pid.sent[10]
    await asyncio.sleep_ms(4 * 60 * MINUTE)
    work.stop()
    again = _unit(folder)
    await asyncio.sleep_ms(1000)
    again.board.radio.hear(THIEF, -40, recorded)
    await asyncio.sleep_ms(1000)
    assert [event[0] for event in again.events()] == [constants.EVENT_BEACON_COPIED]


async def check_foreign_advertisements_are_nothing(folder):
    work = _unit(folder)
    await asyncio.sleep_ms(1000)
    other = beacon.build(aes(bytes(16), 1).encrypt, PID, 1, 0, 50)
    for data in (b"", b"\x02\x01\x06", b"\xff" * 31, other, other[:-1]):
        work.board.radio.hear(THIEF, -40, data)
    await asyncio.sleep_ms(6 * MINUTE)
    assert _presences(work)[-1][6] == 0 and work.events() == []


async def check_mains(folder):
    work = _unit(folder)
    await asyncio.sleep_ms(MINUTE)
    mains = work.board.inputs["mains"]
    for _ in range(10):
        mains.set(0)
        await asyncio.sleep_ms(100)
        mains.set(1)
        await asyncio.sleep_ms(100)
    assert work.events() == [], "a flicker of the lamp"
    mains.set(0)
    await asyncio.sleep_ms(25 * MINUTE)
    mains.set(1)
    await asyncio.sleep_ms(MINUTE)
    assert [event[0] for event in work.events()] == [constants.EVENT_MAINS_LOST, constants.EVENT_MAINS_RESTORED]


async def check_moved_is_motion_with_mains(folder):
    for wait_ms, moved in ((0, 1), (100000, 1), (180000, 0)):
        for motion_first in (False, True):
            work = _unit(_new(folder))
            await asyncio.sleep_ms(MINUTE)
            inputs = work.board.inputs
            for step in range(2):
                if (step == 0) == motion_first:
                    inputs["motion"].set(1)
                    inputs["motion"].set(0)
                else:
                    inputs["mains"].set(0)
                await asyncio.sleep_ms(wait_ms if step == 0 else 5000)
            assert len(work.events(constants.EVENT_HOME_UNIT_MOVED)) == moved, (wait_ms, motion_first)
            work.stop()


async def check_motion_alone_is_nothing(folder):
    work = _unit(folder)
    for _ in range(50):
        await asyncio.sleep_ms(MINUTE)
        work.board.inputs["motion"].set(1)
        work.board.inputs["motion"].set(0)
    assert work.events() == []


_folders = 0


def _new(folder):
    import os

    global _folders
    _folders += 1
    os.mkdir("%s/%d" % (folder, _folders))
    return "%s/%d" % (folder, _folders)
