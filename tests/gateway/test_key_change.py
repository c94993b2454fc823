"""A device is given its next key: sent until it is used, committed, and the old one refused from then on."""

import pytest
from emgate.devices.registry import Device, Registry, read_device_file
from emgate.errors import ConfigError
from emgate.keys.sealing import Ccm
from emwire import codec, envelope
from emwire.errors import WireError
from gateway_kit import DEVICE, KEY
from test_sessions import Bench, up_frame

NEXT = bytes(range(100, 116))


def device(**changes: object) -> Device:
    fields = {"device_id": DEVICE, "model": "ankle_gps", "key": KEY.hex(), "next_key": NEXT.hex(), **changes}
    return Device.model_validate({name: value for name, value in fields.items() if value is not None})


def poll(counter: int, key: bytes = KEY, slot: int = 0) -> bytes:
    control = envelope.control_byte(envelope.UP, envelope.LINK, False, slot)
    return envelope.seal(Ccm(key), DEVICE, control, 1, counter, codec.Poll().encode())


def told(bench: Bench, key: bytes) -> list[object]:
    frames, bench.wire.sent = bench.wire.sent, []
    return [codec.decode(envelope.open_frame(Ccm(key), DEVICE, frame, 1)[3]) for frame in frames]


@pytest.fixture
async def bench(tmp_path):
    bench = Bench(tmp_path, device())
    await bench.start()
    yield bench
    await bench.stop()


async def test_a_key_is_changed_and_the_old_one_refused(bench: Bench) -> None:
    await bench.take(poll(0))
    messages = told(bench, KEY)
    assert messages[-1] == codec.KeyUpdate(1, NEXT), "last, since the device opens nothing under the old one after it"
    await bench.take(poll(1))
    assert not any(isinstance(message, codec.KeyUpdate) for message in told(bench, KEY)), "not again within a minute"
    await bench.take(up_frame(envelope.RECORD, 1, 0, b"\x3f"))
    told(bench, KEY)
    await bench.take(poll(2, NEXT, 1))
    assert any(isinstance(message, codec.Time) for message in told(bench, NEXT)), "answered under the new key"
    (session,) = bench.sessions
    assert session.link.slot == 1 and bench.sessions.counters["keys_changed"] == 1
    for _ in range(2):
        refused = bench.sessions.refused["key"]
        await bench.take(poll(3))
        assert bench.sessions.refused["key"] == refused + 1
        assert told(bench, NEXT) == []
        await bench.restart()
    assert [session.link.slot for session in bench.sessions] == [1]
    # The operator has moved the key in the registry.
    bench.registry = Registry([device(key=NEXT.hex(), key_slot=1, next_key=None)])
    await bench.restart()
    await bench.take(poll(4, NEXT, 1))
    assert told(bench, NEXT) and not bench.sessions.refused


async def test_until_the_device_uses_it_both_are_taken(bench: Bench) -> None:
    for number in range(3):
        await bench.take(poll(number))
        assert told(bench, KEY)
        await bench.restart()
    assert not bench.sessions.refused


def test_the_same_key_is_no_change() -> None:
    with pytest.raises(ValueError, match="give another one"):
        device(next_key=KEY.hex())
    assert NEXT.hex() not in repr(device()) + device().model_dump_json()


def test_a_bad_next_key_is_named(tmp_path) -> None:
    path = tmp_path / "devices.toml"
    path.write_text(f'[[devices]]\ndevice_id = 1\nmodel = "pid"\nkey = "{KEY.hex()}"\nnext_key = "00"\n')
    with pytest.raises(ConfigError, match="next_key"):
        read_device_file(path)
    with pytest.raises(WireError):
        envelope.open_frame(Ccm(NEXT), DEVICE, poll(0))
