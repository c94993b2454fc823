"""Rate limits per link and device."""

import asyncio
from collections import Counter

from emgate.config import LimitsSection
from emgate.links import limits
from emgate.links.limits import Gate
from emwire import constants
from links_kit import Heard, until
from test_serial_link import Taker


class SomeLink:
    kind = "mqtt"

    def __init__(self, name: str) -> None:
        self.name = name
        self.counters: Counter[str] = Counter()
        self.up = asyncio.Event()


async def test_each_limit_drops_its_own_and_says_so(monkeypatch) -> None:
    monkeypatch.setattr(limits, "QUIET_S", 0.1)
    taker, heard = Taker(), Heard()
    gate = Gate(taker, lambda device_id: device_id < 100, LimitsSection(device_frames_per_s=10), heard)
    loud, quiet = SomeLink("mqtt:loud"), SomeLink("serial:quiet")
    verdicts = [gate(loud, 1, b"again").result() for _ in range(500)]
    assert 40 <= sum(verdicts) <= 60, "four seconds' worth, and what came meanwhile"
    assert loud.counters["limited_device"] == verdicts.count(False)
    assert gate(loud, 2, b"x").result(), "another device has a limit of its own"
    assert gate(quiet, 1, b"x").result(), "and the same one on another link"
    strangers = [gate(loud, 1000 + number, b"?").result() for number in range(2000)]
    assert 500 <= sum(strangers) < 700
    assert loud.counters["limited_strangers"] == strangers.count(False)
    await until(lambda: len(heard.of(constants.EVENT_GATEWAY_FLOOD)) == 4)
    told = heard.of(constants.EVENT_GATEWAY_FLOOD)
    assert told[0] == (1, b"mqtt:loud\nlimited_device")
    assert (loud.counters["limited_device"], b"mqtt:loud\nlimited_device") in told[2:]
    assert (loud.counters["limited_strangers"], b"mqtt:loud\nlimited_strangers") in told[2:]


async def test_neither_strangers_nor_one_loud_number_take_the_link_from_the_others() -> None:
    """However fast they send: a broker in a data centre passes on more than a link's limit."""
    gate = Gate(Taker(), lambda device_id: device_id < 100, LimitsSection(), None)
    link = SomeLink("mqtt")
    passed = 0
    for number in range(200):
        for _ in range(500):
            gate(link, 1000 + number, b"?")
            gate(link, 1, b"garbage under a tag's number")
        passed += gate(link, 2, b"real").result()
    assert passed == 200
    assert link.counters["limited_link"] == 0 and link.counters["limited_strangers"] and link.counters["limited_device"]


async def test_a_link_has_a_limit_and_memory_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(limits, "MAXIMUM_BUCKETS", 50)
    taker = Taker()
    gate = Gate(taker, lambda device_id: True, LimitsSection(link_frames_per_s=100), None)
    link = SomeLink("ble")
    for number in range(1000):
        gate(link, number, b"x")
    assert link.counters["limited_link"] >= 500
    assert len(gate._buckets) <= 50
