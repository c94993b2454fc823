"""A home unit talks to the gateway's end of the real link over its serial line."""

import asyncio
import struct

from common.ccm import Ccm
from emwire import constants, device_codec, envelope
from emwire.framing import StreamDecoder, encode_stream
from emwire.gateway_link import GatewayLink

from at_work import BODY, DEVICE_ID, KEY, AtWork
from virtual import now_ms

T0 = 500000000
MINUTE = 60000


class GatewayModel:
    """Stores all, acknowledges, and answers questions about the time `delay_ms` late."""

    def __init__(self, work):
        self.uart = work.board.uarts["host"]
        self.uart.on_write = self._on_write
        self.decoder = StreamDecoder()
        self.counter = 0
        self.link = GatewayLink(DEVICE_ID, Ccm(KEY), self._reserve)
        self.records = []
        self.delay_ms = 0
        self.present = True
        self.offset_ms = 0
        self._tasks = []

    def _reserve(self, epoch, count):
        self.counter += count
        return self.counter - count

    def _on_write(self, data):
        for datagram in self.decoder.feed(data):
            if not self.present:
                continue
            assert struct.unpack("<I", datagram[:4])[0] == DEVICE_ID
            got = self.link.received(datagram[4:])
            if got.kind == envelope.RECORD:
                self.link.stored(got.epoch, got.sequence)
                self.link.delivered(got.epoch, got.sequence)
                self.records.append((got.epoch, got.sequence, got.alarm, device_codec.decode(got.payload)))
            elif got.message[0] == constants.MESSAGE_POLL:
                now = now_ms() + self.offset_ms
                self.later(device_codec.encode_time(T0 + now // 1000, now % 1000, 50))
            for frame in self.link.acknowledgements():
                self._send(frame)

    def later(self, message):
        self._tasks.append(asyncio.create_task(self._later(message)))

    async def _later(self, message):
        await asyncio.sleep_ms(self.delay_ms)
        self._send(self.link.seal(message))

    def _send(self, frame):
        self.uart.feed(encode_stream(struct.pack("<I", DEVICE_ID) + frame))


def _unit(folder):
    work = AtWork(folder, "home_unit", settings={"status_interval_s": 600})
    return work, GatewayModel(work)


def _clock_of(record):
    """(source, uncertainty ms, recorded time, uptime)."""
    return record[1:5]


async def check_every_record_arrives_once(folder):
    work, gateway = _unit(folder)
    work.start()
    await asyncio.sleep_ms(60 * MINUTE)
    gateway.present = False
    work.board.inputs["mains"].set(0)
    await asyncio.sleep_ms(60 * MINUTE)
    gateway.present = True
    await asyncio.sleep_ms(10 * MINUTE)
    sequences = sorted(item[1] for item in gateway.records)
    assert sequences == list(range(len(sequences))) and len(sequences) >= 14
    assert len(work.records()) == len(sequences)
    alarms = [item[3][BODY] for item in gateway.records if item[2]]
    assert alarms == [constants.EVENT_MAINS_LOST]


async def check_time_from_the_gateway(folder):
    work, gateway = _unit(folder)
    work.start()
    await asyncio.sleep_ms(60 * MINUTE)
    source, uncertainty_ms, recorded_s, uptime_s = _clock_of(gateway.records[-1][3])
    assert source == constants.CLOCK_GATEWAY and recorded_s == T0 + uptime_s and uncertainty_ms < 200
    assert work.events() == []


async def check_slow_answers_widen_the_bound_and_never_jump(folder):
    work, gateway = _unit(folder)
    gateway.delay_ms = 9000
    work.start()
    await asyncio.sleep_ms(20 * MINUTE)
    source, uncertainty_ms, recorded_s, uptime_s = _clock_of(gateway.records[-1][3])
    assert source == constants.CLOCK_GATEWAY
    assert abs(recorded_s - (T0 + uptime_s)) * 1000 <= uncertainty_ms + 1000 <= 6500
    gateway.delay_ms = 0
    await asyncio.sleep_ms(60 * MINUTE)
    source, uncertainty_ms, recorded_s, uptime_s = _clock_of(gateway.records[-1][3])
    assert recorded_s == T0 + uptime_s and uncertainty_ms < 200, "asked until it was good"


async def check_gateway_clock_that_jumps_is_followed_and_told(folder):
    work, gateway = _unit(folder)
    work.start()
    await asyncio.sleep_ms(10 * MINUTE)
    gateway.offset_ms = -3600000
    gateway.present = False
    await asyncio.sleep_ms(36 * 60 * MINUTE)
    gateway.present = True
    await asyncio.sleep_ms(60 * MINUTE)
    jumps = work.events(constants.EVENT_CLOCK_JUMPED)
    assert len(jumps) == 1 and abs(jumps[0][3] + 3600000) < 5000


async def check_configuration_is_applied_and_kept(folder):
    work, gateway = _unit(folder)
    work.start()
    await asyncio.sleep_ms(MINUTE)
    gateway.later(device_codec.encode_configuration(7, 0, 0, 60, 0, 120, ((0x3001, bytes(range(16, 32))),)))
    await asyncio.sleep_ms(10000)
    status = gateway.records[-1][3]
    assert status[0] == constants.MESSAGE_STATUS and status[BODY + 11] == 7, "told at once"
    await asyncio.sleep_ms(10 * MINUTE)
    windows = [item[3] for item in gateway.records if item[3][0] == constants.MESSAGE_PRESENCE]
    assert len(windows) in (9, 10, 11) and windows[0][BODY] == 0x3001
    work.stop()
    again = AtWork(folder, "home_unit").start()
    await asyncio.sleep_ms(2 * MINUTE)
    assert again.records(constants.MESSAGE_HELLO)[-1][BODY + 7] == 7
