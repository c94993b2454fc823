"""What a full store gives up comes again from its device: nothing is lost, nothing is called delivered before it is."""

import asyncio
from pathlib import Path

import pytest
from emgate.store.holes import HOLD_S, INHERITED_S
from emgate.store.sqlite_rows import bytes_in_use
from gateway_kit import DEVICE, Tag, event_record, status_record
from uplink_kit import Site

ROOM_BYTES = 60_000
ROUTINE, ALARMS = 700, 250


async def in_store(site: Site) -> set[int]:
    return await site.store.read(
        lambda connection: {
            n for (n,) in connection.execute("SELECT sequence FROM records WHERE device_id = ?", (DEVICE,))
        }
    )


async def deliver(site: Site) -> set[int]:
    """As an uplink does; what the backend has then."""
    reached: set[int] = set()
    for alarm in (True, False):
        while records := await site.store.undelivered("uplink", alarm, 500, 1 << 20):
            reached |= {record.sequence for record in records}
            moved = await site.store.advance("uplink", alarm, records[-1].row_id, site.sessions.marks())
            assert moved is not None
            site.sessions.delivered([each for each in records if moved[0] < each.row_id <= moved[1]])
    return reached


async def test_a_device_sends_again_what_the_store_gave_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emgate.store.log.WEIGH_EACH", 1)
    monkeypatch.setattr("emgate.store.limits.DROP_ROWS", 20)
    for alarm in (False, True):
        monkeypatch.setitem(HOLD_S, alarm, 0.0)
        monkeypatch.setitem(INHERITED_S, alarm, 0.0)
    site, tag = Site(tmp_path), Tag(tmp_path / "tag")
    await site.start()
    site.store.limit(await site.store.read(bytes_in_use) + ROOM_BYTES)
    async with site.joined(tag):
        routine = [tag.record(status_record(n)) for n in range(ROUTINE)]
        async with asyncio.timeout(20):
            await site.store.crowded.wait()
        accepted = await in_store(site)
        assert accepted < set(routine)
        alarms = [tag.record(event_record(n), alarm=True) for n in range(ALARMS)]
        await tag.until(lambda: {(DEVICE, 1, n) for n in alarms} <= tag.told)
        assert await in_store(site) >= accepted | set(alarms)
        await site.store.prune(site.clock.now_ms(), 14)
        losses = await site.store.losses(0, 100)
        gone = {n for loss in losses for n in range(loss.first, loss.last + 1)}
        assert gone and gone == set(sorted(accepted)[: len(gone)]), "the oldest routine records"
        assert await in_store(site) >= set(alarms) and not gone & await in_store(site)
        for loss in losses:
            site.sessions.take_back(loss.device_id, loss.epoch, loss.first, loss.last)
            site.store.taken_back(loss)
        await site.settle()
        (state,) = await site.store.epochs(DEVICE)
        assert state.stored_through == 0
        reached = await deliver(site)
        await site.settle()
        assert (await site.store.epochs(DEVICE))[0].delivered_through == 0, "the first ones never arrived"
        site.store.limit(1 << 40)  # the target took what there was
        await site.store.prune(site.clock.now_ms(), 14)
        await tag.until(lambda: tag.link.idle)
        assert tag.link.started_over >= 1
        reached |= await deliver(site)
        await tag.until_delivered()
    assert reached == {*routine, *alarms}
    await site.stop()
