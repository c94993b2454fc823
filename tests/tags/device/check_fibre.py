"""A strap of conductor and fibre: either is a cut, both are one, and a lamp that fades is a fault."""

import asyncio
import struct

from common import tamper
from common.settings import Settings
from drivers import strap
from drivers.fibre import Fibre
from emwire import constants

import virtual
from at_work import AtWork

CUT = constants.EVENT_STRAP_CUT
RESTORED = constants.EVENT_STRAP_RESTORED
FAULT = constants.EVENT_STRAP_FAULT
HOUR = 3600000


async def _worn(folder):
    work = AtWork(folder, "alcohol", fibre=True).start()
    work.board.inputs["alcohol_ready"].level = 1
    await asyncio.sleep_ms(HOUR)
    return work


def _cut(work, conductor=None, light=None):
    if light is not None:
        work.board.adcs["fibre_light"].counts = light
        work.board.inputs["fibre"].set(1 if light > 20000 else 0)
    if conductor is not None:
        work.board.inputs["strap"].set(conductor)


def _told(work):
    return [(event[0], event[4]) for event in work.events(CUT, RESTORED, FAULT)]


async def check_board_without_the_part_watches_the_conductor(folder):
    work = AtWork(folder, "alcohol", fibre=True)

    def no_part(name):
        raise ValueError("board virtual has no %s" % name)

    adcs = work.board.adc
    work.board.adc = lambda name: no_part(name) if name == "fibre_light" else adcs(name)
    work.start()
    await asyncio.sleep_ms(HOUR)
    ((kind, evidence),) = _told(work)
    assert kind == FAULT and evidence[-1] == tamper.FIBRE
    _cut(work, conductor=0)
    await asyncio.sleep_ms(HOUR)
    assert [told[0] for told in _told(work)] == [FAULT, CUT]


async def check_blade_through_both_is_one_cut(folder):
    work = await _worn(folder)
    begun = virtual.now_ms()
    _cut(work, 0, 30)
    await asyncio.sleep_ms(4900)
    ((kind, evidence),) = _told(work)
    mask, light, before, changes, edges = struct.unpack(tamper.EVIDENCE_FORMAT, bytes(evidence))
    assert (kind, mask, light, before, changes, edges) == (CUT, 3, 30, 40000, 2, 2), (
        mask,
        light,
        before,
        changes,
        edges,
    )
    assert virtual.now_ms() - begun < 5000
    await asyncio.sleep_ms(25 * HOUR)
    assert [item[0] for item in _told(work)] == [CUT, CUT], "again after 24 h, once"
    _cut(work, 1)
    await asyncio.sleep_ms(HOUR)
    assert len(_told(work)) == 2, "half a strap is no strap"
    _cut(work, None, 40000)
    await asyncio.sleep_ms(HOUR)
    assert [item[0] for item in _told(work)] == [CUT, CUT, RESTORED]


async def check_bridged_conductor_does_not_help(folder):
    work = await _worn(folder)
    _cut(work, None, 30)
    await asyncio.sleep_ms(10000)
    told = _told(work)
    assert [item[0] for item in told] == [CUT] and told[0][1][0] == tamper.FIBRE, told
    _cut(work, 0)
    await asyncio.sleep_ms(10000)
    assert len(_told(work)) == 1


async def check_conductor_alone_is_a_cut(folder):
    work = await _worn(folder)
    _cut(work, 0)
    await asyncio.sleep_ms(10000)
    ((kind, evidence),) = _told(work)
    assert kind == CUT and evidence[0] == tamper.CONDUCTOR


async def check_fading_lamp_is_a_fault(folder):
    work = await _worn(folder)
    for light in range(40000, 20000, -500):
        _cut(work, None, light)
        await asyncio.sleep_ms(HOUR // 3)
    _cut(work, None, 15000)
    await asyncio.sleep_ms(49 * HOUR)
    ((kind, evidence),) = _told(work)
    assert kind == FAULT and evidence[-1] == tamper.FIBRE, "and no cut, not even a day later"
    _cut(work, 0)
    await asyncio.sleep_ms(10000)
    assert [item[0] for item in _told(work)] == [FAULT, CUT], "the conductor still tells"


async def check_flicker_of_either_is_one_fault(folder):
    for part in ("strap", "fibre"):
        import os

        os.mkdir(folder + "/" + part)
        work = await _worn(folder + "/" + part)
        for turn in range(100):
            work.board.inputs[part].set(turn % 2)
            await asyncio.sleep_ms(700)
        work.board.inputs[part].set(1)
        await asyncio.sleep_ms(2 * HOUR)
        ((kind, evidence),) = _told(work)
        assert kind == FAULT
        changes, edges, open_ms, lasted_ms, which = struct.unpack(strap.EVIDENCE_FORMAT + "B", bytes(evidence))
        assert (
            edges >= 80 and open_ms and lasted_ms and which == (tamper.CONDUCTOR if part == "strap" else tamper.FIBRE)
        )
        work.stop()


def check_faded_before_it_failed(folder):
    settings = Settings(folder)
    adc = virtual.Adc(40000)
    fibre = Fibre(adc, settings)
    assert not fibre.faded, "never looked at"
    for counts, faded in ((40000, False), (30100, False), (29900, True), (20500, True)):
        adc.counts = counts
        fibre.look()
        fibre.look()
        assert fibre.faded == faded, counts
    assert settings.apply_parameters(1, ((constants.PARAMETER_STRAP_LIGHT_PERCENT, 110),)) == b""
    adc.counts = 23000
    fibre.look()
    fibre.look()
    assert not fibre.faded


async def check_tunables_over_the_air(folder):
    settings = Settings(folder)
    pin = virtual.PinIn(1)
    seen = []
    task = asyncio.create_task(
        strap.watch(pin, virtual.now_ms, lambda *item: seen.append((item[0], virtual.now_ms())), settings)
    )
    await asyncio.sleep_ms(0)
    assert settings.apply_parameters(1, ((constants.PARAMETER_STRAP_CONFIRM_MS, 500),)) == b""
    begun = virtual.now_ms()
    pin.set(0)
    await asyncio.sleep_ms(3000)
    assert seen == [(strap.OPENED, begun + 500)]
    task.cancel()


async def check_a_cut_told_before_a_reset_is_told_once_and_its_end_too(folder):
    work = await _worn(folder)
    _cut(work, 0, 30)
    await asyncio.sleep_ms(HOUR)
    for conductor, light, told in (
        (0, 30, [CUT]),
        (1, 30, [CUT]),
        (1, 40000, [CUT, RESTORED]),
        (1, 40000, [CUT, RESTORED]),
    ):
        work.stop()
        await asyncio.sleep_ms(0)
        work = AtWork(folder, "alcohol", fibre=True)
        work.board.inputs["alcohol_ready"].level = 1
        _cut(work, conductor, light)
        work.start()
        await asyncio.sleep_ms(HOUR)
        assert [event[0] for event in _told(work)] == told, (conductor, light, _told(work))
