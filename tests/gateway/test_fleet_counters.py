"""A device of a fleet takes the down frames of whichever gateway has it, and no two of them share a counter."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from emgate.devices.counter_share import FARTHEST, CounterShare
from emwire import constants
from gateway_kit import Tag, status_record
from test_sessions import Bench, opened

PLACES = 4


def counters(bench: Bench) -> list[int]:
    """Of the down frames of the last exchange."""
    return [opened(frame)[0][2] for frame in bench.wire.sent]


@contextlib.asynccontextmanager
async def two_members(folder: Path, second_place: int = 1) -> AsyncIterator[tuple[Tag, Bench, Bench]]:
    """A device, and two gateways that it may have."""
    tag = Tag(folder / "tag")
    tag.link.opened(0)
    benches = []
    for name, place in (("a", 0), ("b", second_place)):
        bench = Bench(folder)
        bench.path = folder / f"{name}.sqlite"
        bench.counter_share = CounterShare(place, PLACES)
        await bench.start()
        benches.append(bench)
    try:
        yield tag, benches[0], benches[1]
    finally:
        for bench in benches:
            await bench.stop()


async def exchange(tag: Tag, bench: Bench, now_ms: int, number: int) -> int:
    """The device sends a record, and what the gateway answers reaches it: how many frames it refused."""
    refused = tag.link.refused
    tag.record(status_record(number))
    bench.wire.sent.clear()
    while (frame := tag.link.poll(now_ms)) is not None:
        await bench.take(frame)
    assert bench.wire.sent
    for frame in bench.wire.sent:
        tag.arrived(frame)
    return tag.link.refused - refused


@pytest.mark.parametrize(("gone_ms", "clock_behind_ms"), [(0, 0), (200, 0), (90_000, 0), (5_000, 3_000)])
async def test_a_device_that_comes_back_believes_the_gateway(
    tmp_path: Path, gone_ms: int, clock_behind_ms: int
) -> None:
    """Also where counters were left from before, and within the second of the last frame."""
    async with two_members(tmp_path, 3) as (tag, first, second):
        first.clock.ms -= clock_behind_ms
        used: list[int] = []
        number = 0
        for holder in (first, second, first, second, first):
            for _ in range(20):  # up to two frames each, at 64 a second
                for bench in (first, second):
                    bench.clock.ms += 40
                number += 1
                assert await exchange(tag, holder, number, number) == 0
                used += counters(holder)
                assert {counter % PLACES for counter in counters(holder)} == {holder.counter_share.place}
            if gone_ms >= 4096:  # a restart leaves out what is left of a block: 1024 counters are 4 s
                await holder.restart()
            for bench in (first, second):
                bench.clock.ms += gone_ms
        assert len(tag.told) == number and len(set(used)) == len(used)


async def test_counters_ahead_of_another_gateways_clock_are_caught_up_with_by_it(tmp_path: Path) -> None:
    """A thousand frames in no time, and then another gateway has the device: deaf only till its clock is there."""
    async with two_members(tmp_path) as (tag, first, second):
        for number in range(1000):
            assert await exchange(tag, second, number, number) == 0
        begun = (second.clock.ms - constants.TIME_EPOCH_UNIX_S * 1000) * 256 // 1000
        ahead_ms = (max(counters(second)) - begun) * 1000 // 256
        assert 1000 * 1000 // 64 <= ahead_ms < 1000 * 1000 // 40, (
            "one counter in four of 256 a second, and what a block loses"
        )
        assert await exchange(tag, first, 1000, 1000) > 0
        first.clock.ms += ahead_ms + 4
        assert await exchange(tag, first, 1_000_000, 1001) == 0
        assert len(tag.told) == 1002, "and what was not acknowledged came again"


async def test_who_takes_over_from_a_clock_that_is_a_year_ahead_begins_above_it(tmp_path: Path) -> None:
    async with two_members(tmp_path) as (tag, first, second):
        members = (first.counter_share, second.counter_share)

        def tell() -> int:
            """As through the broker, until nobody has anything to say any more."""
            said = 0
            while counters := [share.to_tell() for share in members if share.to_tell() is not None]:
                for counter in counters:
                    for share in members:
                        share.heard(counter)
                said += 1
            return said

        assert await exchange(tag, first, 0, 0) == 0
        assert tell() == 1
        first.clock.ms += 366 * 86_400_000
        for number in range(1, 100):
            assert await exchange(tag, first, number, number) == 0
        assert tell() == 1
        for holder in (second, first, second):  # also when the clock has been put right
            first.clock.ms = second.clock.ms
            for _ in range(200):
                number += 1
                assert await exchange(tag, holder, number, number) == 0
                for bench in (first, second):
                    bench.clock.ms += 40
            assert tell() <= 1
        assert len(tag.told) == number + 1


def test_nobody_is_believed_who_would_use_all_counters_up() -> None:
    share = CounterShare(1, PLACES)
    now = share.at_least(500_000_000, 0)
    share.heard(FARTHEST + 1)
    assert share.at_least(500_000_000, 0) == now
    share.heard(FARTHEST)
    assert share.at_least(500_000_000, 0) > now
    assert CounterShare().at_least(500_000_000, 999) == 500_000_000 * 256, "alone it is a block a second"
