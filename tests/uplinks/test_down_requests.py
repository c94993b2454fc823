"""Requests to devices: sent until answered, once each, over cut links and restarts."""

import asyncio
import itertools
import os
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
from emgate.config import Broker
from emgate.down import requests as down_requests
from emgate.down.kinds import RequestError
from emgate.down.requests import CONTROL, OPEN_PER_DEVICE, Request
from emgate.uplinks import batch_bytes
from emgate.uplinks.asked import MOST_REFUSALS, MOST_WAITING, AskedDown
from emgate.uplinks.mqtt import MqttUplink
from emwire import codec, constants
from gateway_kit import DEVICE, Tag, status_record
from uplink_kit import Site, commands_of, event_of, result_record

LOCATE = {"kind": "command", "command": "LOCATE_NOW", "argument": 60}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path)
    await made.start()
    yield made
    await made.stop()


async def ask(site: Site, request_id: str = "r1", **body: object) -> Request:
    return await site.requests.submit(CONTROL, {"requestId": request_id, "deviceId": DEVICE, **(body or LOCATE)})


async def test_a_command_reaches_an_open_device_at_once_and_is_answered(site: Site, tmp_path: Path) -> None:
    async with site.joined(Tag(tmp_path / "tag")) as tag:
        tag.record(status_record(1))
        await tag.until(lambda: len(tag.told) == 1)
        request = await ask(site)
        await tag.until(lambda: len(commands_of(tag)) == 1)
        number, kind, argument, expires_s = commands_of(tag)[0]
        assert (kind, argument) == (constants.COMMAND_LOCATE_NOW, 60)
        assert expires_s == request.expires_ms // 1000 - constants.TIME_EPOCH_UNIX_S
        assert request.state == "sent"
        tag.record(result_record(number, kind, constants.OUTCOME_ACCEPTED))
        tag.record(result_record(number, kind, constants.OUTCOME_DONE, 7))
        assert await site.requests.wait(request, 10)
    assert (request.state, request.result["outcome"], request.result["value"]) == ("answered", "DONE", 7)
    await site.restart()
    kept = await site.requests.find("r1")
    assert (kept.state, kept.result) == ("answered", request.result)


async def test_a_command_waits_for_a_device_that_is_away_over_a_restart(site: Site, tmp_path: Path) -> None:
    request = await ask(site)
    assert request.state == "queued"
    await site.restart()
    async with site.joined(Tag(tmp_path / "tag")) as tag:
        await tag.until(lambda: len(commands_of(tag)) == 1)
    assert (await site.requests.find("r1")).state == "sent"


async def test_a_lost_command_is_sent_again_with_its_number_and_not_before_its_time(site: Site, tmp_path: Path) -> None:
    async with site.joined(Tag(tmp_path / "tag")) as tag:
        await tag.until(lambda: bool(tag.messages))
        site.wire.lose = lambda frame: True
        request = await ask(site)
        await site.settle()
        assert (request.state, request.attempts) == ("sent", 1)
        site.wire.lose = lambda frame: False
        site.clock.ms += 19_000
        site.requests.sweep()
        await site.settle()
        assert commands_of(tag) == []
        site.clock.ms += 2_000
        site.requests.sweep()
        await site.settle()
        assert [each[0] for each in commands_of(tag)] == [request.number]
        for _ in range(100):  # nobody answers: the clock alone prompts it no more than three times
            site.clock.ms += 20_000
            site.requests.sweep()
            await site.settle()
        assert len(commands_of(tag)) == 2


async def test_the_same_id_is_one_request_and_another_body_under_it_is_refused(site: Site, tmp_path: Path) -> None:
    first, second = await asyncio.gather(ask(site), ask(site))
    assert first is second
    with pytest.raises(RequestError, match="another request"):
        await ask(site, kind="command", command="REBOOT")
    async with site.joined(Tag(tmp_path / "tag")) as tag:
        await tag.until(lambda: bool(commands_of(tag)))
        await site.settle()
        assert len(commands_of(tag)) == 1
    await site.restart()
    assert (await ask(site)).number == first.number


async def test_numbers_rise_and_differ_over_restarts_and_a_clock_set_back(site: Site) -> None:
    numbers = [(await ask(site, f"a{n}", **LOCATE)).number for n in range(3)]
    site.clock.ms -= 86_400_000
    await site.restart()
    numbers += [(await ask(site, f"b{n}", **LOCATE)).number for n in range(3)]
    assert sorted(set(numbers)) == numbers
    assert all(number % 2 for number in numbers), "even numbers are the backend's"


async def test_a_request_expires_and_a_late_answer_is_still_taken(site: Site, tmp_path: Path) -> None:
    request = await ask(site, expiresMs=site.clock.ms + 60_000, **LOCATE)
    site.clock.ms += 59_999
    site.requests.sweep()
    assert request.state == "queued"
    site.clock.ms += 1
    site.requests.sweep()
    assert request.state == "expired"
    await site.restart()
    async with site.joined(Tag(tmp_path / "tag")) as tag:
        tag.record(result_record(request.number, constants.COMMAND_LOCATE_NOW))
        await tag.until(lambda: len(tag.told) == 1)
        assert commands_of(tag) == []
    await site.settle()
    assert (await site.requests.find("r1")).state == "answered"


async def test_an_answer_committed_before_a_kill_is_found_at_start(site: Site, tmp_path: Path) -> None:
    request = await ask(site)
    site.requests.observed = lambda device_id, message: None  # the kill comes before the answer is noted
    async with site.joined(Tag(tmp_path / "tag")) as tag:
        await tag.until(lambda: bool(commands_of(tag)))
        tag.record(result_record(request.number, constants.COMMAND_LOCATE_NOW))
        await tag.until(lambda: len(tag.told) == 1)
    assert request.state == "sent"
    await site.restart()
    assert (await site.requests.find("r1")).state == "answered"


async def test_only_four_are_under_way_at_once_and_all_are_sent_in_order(site: Site, tmp_path: Path) -> None:
    for number in range(10):
        await ask(site, f"r{number}", kind="command", command="NOTIFY_WEARER", argument=number)
    async with site.joined(Tag(tmp_path / "tag")) as tag:
        await tag.until(lambda: len(commands_of(tag)) == 4)
        await site.settle()
        assert len(commands_of(tag)) == 4
        for answered in range(10):
            await tag.until(lambda after=answered: len(commands_of(tag)) > after)
            number, kind, _, _ = commands_of(tag)[answered]
            tag.record(result_record(number, kind))
        assert [each[2] for each in commands_of(tag)] == list(range(10))
        await tag.until(lambda: len(tag.told) == 10)
    await site.settle()
    assert {each["state"] for each in await site.requests.listed(DEVICE)} == {"answered"}


async def test_what_cannot_be_asked_is_refused_with_the_remedy(site: Site) -> None:
    for body, words in (
        ({"kind": "command", "command": "LOCATE"}, "did you mean LOCATE_NOW"),
        ({"kind": "command", "command": "REBOOT", "argument": 1 << 31}, "argument must be a whole number"),
        ({"kind": "command", "command": "REBOOT", "arguments": 1}, "unknown key 'arguments'"),
        ({"kind": "reboot"}, "kind must be one of command, order, parameters"),
        ({"kind": "parameters", "version": 1, "parameters": {}}, "must name at least one"),
        ({"kind": "parameters", "version": 1, "parameters": {"FIX_INTERVALS": 3}}, "FIX_INTERVAL_S"),
        ({"kind": "order", "messages": ["zz"]}, "hexadecimal"),
        ({"kind": "order", "messages": ["83"]}, "malformed"),
        ({"kind": "command", "command": "REBOOT", "expiresMs": 5}, "expiresMs"),
    ):
        with pytest.raises(RequestError, match=words):
            await ask(site, **body)
    with pytest.raises(RequestError, match="registry"):
        await site.requests.submit(CONTROL, {"requestId": "x", "deviceId": 5, **LOCATE})
    with pytest.raises(RequestError, match="requestId"):
        await site.requests.submit(CONTROL, {"deviceId": DEVICE, **LOCATE})
    assert await site.requests.listed(None) == []


async def test_a_flood_of_requests_is_refused_and_memory_stays(site: Site) -> None:
    for number in range(OPEN_PER_DEVICE):
        await ask(site, f"r{number}", **LOCATE)
    with pytest.raises(RequestError, match="too many"):
        await ask(site, "one-more", **LOCATE)
    site.clock.ms += 3_600_001
    site.requests.sweep()
    assert (await ask(site, "one-more", **LOCATE)).state == "queued"


async def test_a_flood_through_an_mqtt_uplink_stays_within_memory_and_log(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its broker asks as fast as it can: rubbish, strangers' devices, and orders of which each replaces the last."""
    monkeypatch.setattr(down_requests, "HELD_BYTES", 20_000)
    asked = AskedDown("uplink", site.requests)
    uplink = MqttUplink(Broker(host="localhost"), "gw-1", take_down=asked.take)
    running = asyncio.create_task(asked.run())
    numbers = itertools.count(1)
    vertices = [(51_500_000 + n, -100_000) for n in range(60)]

    def flood() -> None:
        for number in itertools.islice(numbers, 20):
            conditions = codec.OrderConditions(9, number, 1, 0, 0, 60, 0, 0, 0, 0, 0, 0, 0, [(1, 1140, 420, 1)])
            zone = codec.OrderZone(9, number, 0, 1, 1, 0, 0, 2, 100, 0, 1, vertices)
            order = {"kind": "order", "messages": [conditions.encode().hex(), zone.encode().hex()]}
            for device, body in ((DEVICE, order), (DEVICE, LOCATE), (1, LOCATE)):
                facts = {"requestId": f"{number}-{device}-{body['kind']}", "deviceId": device, **body}
                uplink._asked(batch_bytes.encode(facts)[0])
            for rubbish in (os.urandom(200), b"[" * 5000, b"null", b"{}"):
                uplink._asked(rubbish)

    async def settled() -> None:
        while asked._waiting or site.requests._submitting.locked():  # noqa: ASYNC110 - emptied by the code under test
            await asyncio.sleep(0.002)

    with structlog.testing.capture_logs() as lines:
        for _ in range(3):  # until it is full
            flood()
            assert len(asked._waiting) <= MOST_WAITING
            await settled()
        taken, said = site.requests.counters["taken"], len(lines)
        assert 4 < taken <= 20 + OPEN_PER_DEVICE and said <= 2 * taken, "two lines for each that is taken"
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(3):
            flood()
            await settled()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    running.cancel()
    assert (site.requests.counters["taken"], len(lines)) == (taken, said), "nothing more of it, and no word"
    assert asked.counters["requests_dropped"] and asked.counters["requests_refused"] > 100
    assert uplink.counters["bad_request"] > 100
    assert len(asked._refusals) <= MOST_REFUSALS
    assert after - before < 150_000, "of 500 kB that were asked"


async def test_parameters_and_an_order_are_answered_by_their_events(site: Site, tmp_path: Path) -> None:
    order = [
        codec.OrderConditions(9, 3, 1, 0, 0, 60, 0, 0, 0, 0, 0, 0, 0, [(1, 1140, 420, 1)]).encode().hex(),
        codec.OrderZone(9, 3, 0, 1, 1, 0, 0, 2, 100, 0, 1, [(51_500_000, -100_000)]).encode().hex(),
    ]
    old = await ask(site, "o1", kind="order", messages=order)
    fresh = await ask(site, "o2", kind="order", messages=[message.replace("0300", "0400", 1) for message in order])
    assert (old.state, old.result) == ("replaced", {"by": "o2"})
    parameters = await ask(site, "p", kind="parameters", version=7, parameters={"FIX_INTERVAL_S": 30})
    async with site.joined(Tag(tmp_path / "tag")) as tag:
        await tag.until(lambda: any(message[0] == constants.MESSAGE_PARAMETERS for message in tag.messages))
        tag.record(event_of(constants.EVENT_ORDER_APPLIED, 3, (9).to_bytes(4, "little")))
        tag.record(event_of(constants.EVENT_ORDER_APPLIED, 4, (8).to_bytes(4, "little")))
        tag.record(event_of(constants.EVENT_PARAMETERS_REFUSED, 7, b"\x02"))
        assert await site.requests.wait(parameters, 10)
        assert (fresh.state, parameters.result["outcome"]) == ("sent", "REFUSED")
        tag.record(event_of(constants.EVENT_ORDER_APPLIED, 4, (9).to_bytes(4, "little")))
        assert await site.requests.wait(fresh, 10)
    assert fresh.result["outcome"] == "APPLIED"
    assert [message[0] for message in tag.messages if message[0] >= constants.MESSAGE_ORDER_CONDITIONS] == [
        constants.MESSAGE_ORDER_CONDITIONS,
        constants.MESSAGE_ORDER_ZONE,
        constants.MESSAGE_PARAMETERS,
    ]
