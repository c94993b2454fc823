"""Several targets with cursors of their own, budgets, sizes, and one that is down for a week."""

import asyncio
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from emgate import config
from emgate.config import Broker
from emgate.errors import ConfigError
from emgate.store.store import Record, Store
from emgate.uplinks import BatchTooLargeError
from emgate.uplinks.drain import Drain
from emgate.uplinks.meter import DAY_MS, HOUR_MS, Meter
from emgate.uplinks.mqtt import MqttUplink
from gateway_kit import DEVICE, status_record, toml
from uplink_kit import MovableClock


class Target:
    """An Uplink whose far end is the test."""

    name = "target"

    def __init__(self, meter: Meter | None = None, largest: int = 1000) -> None:
        self.up = asyncio.Event()
        self.up.set()
        self.counters: Counter[str] = Counter()
        self.batches: list[list[int]] = []
        self.attempts = 0
        self.meter = meter
        self.largest = largest
        self.changed = asyncio.Event()

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def deliver(self, batch: dict[str, Any]) -> None:
        self.attempts += 1
        await self.up.wait()
        if len(batch["records"]) > self.largest:
            raise BatchTooLargeError("413")
        if self.meter is not None:
            size = sum(len(record["payload"]) // 2 for record in batch["records"])
            await self.meter.spend(size, exempt=batch["records"][0]["alarm"])
        self.batches.append([record["sequence"] for record in batch["records"]])
        self.changed.set()

    def got(self) -> list[int]:
        return [sequence for batch in self.batches for sequence in batch]

    async def until(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.got()) < count:
                self.changed.clear()
                await self.changed.wait()


async def fill(store: Store, first: int, count: int, alarm: bool = False) -> None:
    await asyncio.gather(
        *(
            store.append(Record(DEVICE, 1, n, alarm, 1_780_000_000_000, "serial", status_record(n)))
            for n in range(first, first + count)
        )
    )


class Draining:
    """A store and a drain for each target."""

    def __init__(self, store: Store, clock: MovableClock) -> None:
        self.store = store
        self.clock = clock
        self.delivered: list[int] = []
        self.tasks: list[asyncio.Task[None]] = []

    def add(self, name: str, target: Target, **more: Any) -> Drain:
        drain = Drain(
            self.store, name, target, self.clock, "gw", 100,
            lambda records: self.delivered.extend(record.sequence for record in records), lambda: [], **more,
        )  # fmt: skip
        self.tasks.append(asyncio.create_task(drain.run()))
        return drain

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)
        await self.store.close()


@pytest.fixture
async def draining(tmp_path: Path) -> AsyncIterator[Draining]:
    consumers = {"one": True, "two": True, "archive": False}
    made = Draining(await Store.open(tmp_path / "store.sqlite", consumers=consumers), MovableClock())
    yield made
    await made.stop()


async def test_a_target_that_is_down_for_a_week_costs_nothing_but_disk(draining: Draining) -> None:
    one, two, archive = Target(), Target(), Target()
    two.up.clear()
    archive.up.clear()
    for name, target in (("one", one), ("two", two), ("archive", archive)):
        draining.add(name, target)
    await fill(draining.store, 0, 200)
    await one.until(200)
    tracemalloc.start()
    before = 0
    for day in range(7):
        draining.clock.ms += 86_400_000
        await fill(draining.store, 200 + day * 400, 400)
        await one.until(600 + day * 400)
        if day == 0:
            before = tracemalloc.get_traced_memory()[0]
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    # 2,400 records of 50 bytes came after the first day, twice as bytes in this test's own lists.
    assert grown < 600_000, "memory does not hold what waits"
    assert (two.attempts, archive.attempts) == (1, 1), "nobody asks again and again"
    assert draining.delivered == [], "a required target does not have them"
    assert sorted(one.got()) == list(range(3000))
    two.up.set()
    await two.until(3000)
    assert two.got() == list(range(3000)), "in order, each once"
    async with asyncio.timeout(20):
        while len(draining.delivered) < 3000:
            await draining.store.drain()
    assert archive.got() == [], "what is not required is not waited for"


async def test_a_routine_budget_holds_and_alarms_are_exempt_but_counted(
    draining: Draining, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emgate.uplinks.meter.LOOK_S", 0.05)
    clock = draining.clock
    meter = Meter("one", {HOUR_MS: 20_000}, draining.store, clock)
    assert meter.largest == 5_000
    target = Target(meter)
    draining.add("one", target, batch_bytes=meter.largest)
    size = len(status_record(0))
    await fill(draining.store, 0, 1000)
    affordable = 20_000 // size
    await target.until(affordable - 100)
    async with asyncio.timeout(20):
        while not meter.counters["waited_for_budget"]:
            await draining.store.drain()
    assert meter.counters["bytes_sent"] <= 20_000
    sent = len(target.got())
    await fill(draining.store, 1000, 20, alarm=True)
    await target.until(sent + 20)
    assert set(range(1000, 1020)) <= set(target.got()), "alarms do not wait"
    assert meter.counters["bytes_sent_exempt"] == 20 * size
    again = Meter("one", {HOUR_MS: 20_000}, draining.store, clock)
    await draining.store.drain()
    await again.load()
    assert again.levels() == meter.levels(), "a restart gives no new allowance"
    for half_hours in range(1, 100):
        if len(target.got()) == 1020:
            break
        clock.ms += HOUR_MS // 2
        before = len(target.got())
        async with asyncio.timeout(20):
            while len(target.got()) == before:
                target.changed.clear()
                await target.changed.wait()
        assert meter.counters["bytes_sent"] <= 20_000 + half_hours * 10_000 + 20 * size
    assert sorted(target.got()) == list(range(1020))


async def test_an_idle_connection_over_mqtt_costs_what_it_takes_to_keep() -> None:
    meter = Meter("one", {DAY_MS: 10_000}, None, MovableClock())
    often = Broker(host="localhost").model_copy(update={"keepalive_s": 0.001})
    counting = asyncio.create_task(MqttUplink(often, "gw", meter=meter)._count_what_it_takes())
    async with asyncio.timeout(20):
        while meter.counters["bytes_sent_exempt"] < 3 * 204:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
    counting.cancel()
    assert meter.counters["bytes_sent_exempt"] % 204 == 0
    assert meter.levels()["bytes_left_day"] == 10_000 - meter.counters["bytes_sent_exempt"]


async def test_a_broker_that_lets_nobody_in_costs_a_connection_each_time() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        writer.write(b"\x20\x02\x00\x05")  # CONNACK: not authorised
        await reader.read()
        writer.close()

    meter = Meter("one", {DAY_MS: 10_000}, None, MovableClock())
    async with asyncio.timeout(20), await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        broker = Broker(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
        uplink = MqttUplink(broker, "gw", meter=meter)
        with pytest.raises(OSError, match="ot authori"):
            await uplink.run()
        assert meter.counters["bytes_sent"] == 600
        server.close()
        with pytest.raises(OSError, match="refused"):
            await uplink.run()
    assert meter.counters["bytes_sent"] == 600 + 300, "who is not reached costs the attempt"


async def test_who_has_used_up_the_budget_asks_nothing_more_except_for_an_alarm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("emgate.uplinks.meter.LOOK_S", 0.01)
    clock = MovableClock()
    meter = Meter("one", {DAY_MS: 10_000}, None, clock)
    meter.count(10_000, exempt=True)
    assert await meter.may_ask(1000), "the first time: somebody waits for it to have been tried"
    asking = asyncio.create_task(meter.may_ask(1000))
    async with asyncio.timeout(20):
        while not meter.waiting:  # noqa: ASYNC110
            await asyncio.sleep(0)
        with meter.delivering(False):
            assert not asking.done()
        with meter.delivering(True):
            assert await asking
        asking = asyncio.create_task(meter.may_ask(1000))
        while not meter.waiting:  # noqa: ASYNC110
            await asyncio.sleep(0)
        clock.ms += DAY_MS // 10
        assert await asking is False, "within the budget"
    assert not meter.waiting


async def test_a_clock_set_back_and_forth_fills_no_bucket_twice(tmp_path: Path) -> None:
    clock = MovableClock()
    meter = Meter("one", {DAY_MS: 10_000}, None, clock)
    await meter.spend(10_000, exempt=False)
    clock.ms -= DAY_MS
    assert meter.levels() == {"bytes_left_day": 0}
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await meter.spend(100, exempt=False)
    await meter.spend(1_000_000, exempt=True)
    assert meter.levels() == {"bytes_left_day": -10_000}, "a flood of alarms costs routine one period at most"


async def test_a_target_that_takes_only_small_batches_gets_them(draining: Draining) -> None:
    target = Target(largest=10)
    drain = draining.add("one", target)
    await fill(draining.store, 0, 100)
    await target.until(100)
    assert target.got() == list(range(100))
    assert 0 < drain.counters["batch_too_large"] < 6


async def test_alarms_overtake_a_routine_batch_that_is_not_taken(draining: Draining) -> None:
    target = Target()
    slow = asyncio.Event()
    deliver = target.deliver

    async def deliver_slowly(batch: dict[str, Any]) -> None:
        if not batch["records"][0]["alarm"]:
            await slow.wait()
        await deliver(batch)

    target.deliver = deliver_slowly  # type: ignore[method-assign]
    draining.add("one", target)
    await fill(draining.store, 0, 500)
    await fill(draining.store, 500, 3, alarm=True)
    await target.until(3)
    assert target.got() == [500, 501, 502]
    slow.set()
    await target.until(503)


TWO = """
[[uplink]]
name = "service"
kind = "mqtt"
host = "broker.example"
metered = {bytes_per_day = 1000000}
[[uplink]]
name = "archive"
required = false
kind = "https"
[uplink.https]
url = "https://archive.example"
token_file = "token"
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TWO.replace("https://archive.example", "https://user@archive.example"), r"uplink\[1\].https.url"),
        (TWO.replace("bytes_per_day = 1000000", ""), "give bytes_per_hour, bytes_per_day, or both"),
        (TWO.replace("bytes_per_day = 1000000", "bytes_per_day = 5"), "metered.bytes_per_day"),
    ],
)
def test_what_is_wrong_with_a_target_is_named(tmp_path: Path, text: str, words: str) -> None:
    """Besides what tests/operations/test_check.py lists."""
    path = tmp_path / "gateway.toml"
    path.write_text(toml(links='[mqtt]\nhost = "localhost"', uplink=TWO))
    loaded = config.load(path)
    assert [(each.name, each.required) for each in loaded.uplink] == [("service", True), ("archive", False)]
    assert loaded.uplink[1].https is not None and loaded.uplink[1].https.token_file == tmp_path / "token"
    path.write_text(toml(links='[mqtt]\nhost = "localhost"', uplink=text))
    with pytest.raises(ConfigError, match=words):
        config.load(path)


async def test_a_required_target_that_goes_counts_what_the_others_have_once(tmp_path: Path) -> None:
    """Also where the one that stays moves on in the same commit, and when one comes back that had fallen behind."""
    path = tmp_path / "store.sqlite"
    store = await Store.open(path, consumers={"one": True, "two": True})
    await fill(store, 0, 300)
    await fill(store, 300, 30, alarm=True)
    assert await store.advance("two", False, 50) == (0, 0)
    assert await store.advance("one", False, 100) == (0, 50)
    moved = [store.advance("one", False, 150), store.advance("one", True, 310)]  # not awaited: one transaction
    assert await store.go_by({"one": True, "new": False}) == {"two": 330}
    await asyncio.gather(*moved, store.advance("one", False, 200))
    assert await store.totals() == {"records": 330, "routine_waiting": 100, "alarms_waiting": 20}
    assert (await store.counts())[DEVICE] == (330, 210)
    assert [record.sequence for record in await store.undelivered("new", False, 5, 1 << 20)] == [0, 1, 2, 3, 4]
    assert await store.go_by({"one": True, "two": True}) == {"new": 330}
    assert await store.advance("two", False, 180) == (50, 180)
    assert (await store.counts())[DEVICE] == (330, 210), "what was delivered once stays so"
    assert [record.sequence for record in await store.undelivered("two", False, 1, 1 << 20)] == [180]
    await store.advance("two", False, 230)
    await store.advance("one", False, 230)
    await store.close()
    for _ in range(2):
        store = await Store.open(path, consumers={"one": True, "two": True})
        assert (await store.counts())[DEVICE] == (330, 240)
        await store.close()
