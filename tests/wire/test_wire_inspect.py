"""What `emtag decode` says of captured bytes, and that it never fails to say something."""

import json
from typing import Any

import pytest
from emgate.keys.sealing import Ccm
from emwire import codec, envelope, framing, positions
from emwire.inspect import inspect_hex
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_kit import VECTORS

KEY = bytes(range(16))
DEVICE_ID = 0x11223344
FRAMES: list[dict[str, Any]] = json.loads((VECTORS / "frames.json").read_text())


def inspect(text: str, key: bytes | None = KEY, device_id: int | None = None, form: str = "auto") -> dict[str, Any]:
    result = inspect_hex(text, key, device_id, Ccm, form)
    json.dumps(result)
    return result


def seal(plaintext: bytes, direction: int = envelope.UP, kind: int = envelope.RECORD) -> str:
    control = envelope.control_byte(direction, kind)
    return envelope.seal(Ccm(KEY), DEVICE_ID, control, 3, 7, plaintext).hex()


@pytest.mark.parametrize("vector", FRAMES, ids=lambda vector: vector["message"])
def test_all_forms_of_a_frame_say_the_same(vector: dict[str, Any]) -> None:
    from_stream = inspect(vector["stream"])
    datagram = DEVICE_ID.to_bytes(4, "little").hex() + vector["frame"]
    assert from_stream.pop("form") == "stream"
    assert {"form": "datagram", **from_stream} == inspect(datagram)
    assert {"form": "frame", **from_stream} == inspect(vector["frame"], device_id=DEVICE_ID)
    assert from_stream["deviceId"] == DEVICE_ID
    assert from_stream["message"] == vector["message"]
    assert from_stream["epoch"] == vector["epoch"]
    assert from_stream["counter" if from_stream["kind"] == "link" else "sequence"] == vector["counter"]
    assert from_stream["alarm"] is bool(vector["control"] & 4)
    assert "error" not in from_stream


def test_without_a_key_the_header_is_told() -> None:
    assert inspect(FRAMES[1]["stream"], key=None) == {
        "form": "stream",
        "deviceId": DEVICE_ID,
        "version": 1,
        "direction": "up",
        "kind": "record",
        "alarm": True,
        "keySlot": 0,
        "epoch": 3,
        "sequence": 0x010203,
        "sealedBytes": len(FRAMES[1]["plaintext"]) // 2,
    }


def test_fields_are_explained() -> None:
    event = codec.Event(1, 65535, 86400, 5, 1, 0, 0xDEADBEEF, -3, b"\1\2")
    fields = inspect(seal(event.encode()), device_id=DEVICE_ID)["fields"]
    assert fields["clock_source"] == {"value": 1, "name": "GNSS"}
    assert fields["clock_uncertainty_ms"] == {"value": 65535, "unit": "ms", "meaning": "unknown or more"}
    assert fields["recorded_time_s"] == {"value": 86400, "utc": "2010-01-02T00:00:00Z"}
    assert fields["event_type"] == {"value": 1, "name": "STRAP_CUT"}
    assert fields["event_time_s"] == {"value": 0, "meaning": "unknown"}
    assert fields["evidence"] == {"value": "0102"}
    reading = codec.AlcoholReading(1, 0, 1, 1, 1, 200000, 1, 1, 1, 5)
    assert inspect(reading.encode().hex(), form="message")["fields"]["quality"] == {
        "value": 5,
        "names": ["CONTACT_LOST", "INTERFERENT_SUSPECTED"],
    }
    unnamed = codec.Gap(1, 0, 1, 1, 1, 2, 3, 200)
    assert inspect(unnamed.encode().hex(), form="message")["fields"]["cause"] == {"value": 200, "name": None}


def test_lists_are_explained_and_keys_hidden() -> None:
    message = codec.Configuration(1, 2, 3, 4, 5, 6, [(9, bytes(range(16)))])
    result = inspect(seal(message.encode(), envelope.DOWN, envelope.LINK), device_id=DEVICE_ID)
    assert result["fields"]["beacon_ids"] == {"value": [{"beacon_id": {"value": 9}, "key": {"value": "hidden"}}]}


def test_positions_are_shown() -> None:
    block = positions.encode_block([(100, 51500000, -120000), (160, 51500100, -120100)])
    message = codec.PositionBlock(1, 0, 200, 9, block)
    shown = inspect(message.encode().hex(), form="message")["fields"]["block"]
    assert shown["value"] == block.hex()
    assert [(fix["gpsDate"], fix["latitude"], fix["longitude"]) for fix in shown["positions"]] == [
        ("2010-01-01T00:01:40Z", 51.5, -0.12),
        ("2010-01-01T00:02:40Z", 51.5001, -0.1201),
    ]
    broken = inspect(codec.PositionBlock(1, 0, 200, 9, b"\xff").encode().hex(), form="message")
    assert broken["fields"]["block"]["error"]
    assert "error" not in broken


def test_unknown_messages_are_raw() -> None:
    result = inspect(seal(b"\x3f\x01\x02"), device_id=DEVICE_ID)
    assert (result["message"], result["messageType"], result["raw"]) == ("unknown", 0x3F, "0102")


@pytest.mark.parametrize(
    ("text", "reason", "offset", "layer"),
    [
        ("", "empty", 0, "hex"),
        (" \n", "empty", 0, "hex"),
        ("abc", "odd", 3, "hex"),
        ("ab cg", "hex", 4, "hex"),
        ("0x00", "hex", 1, "hex"),
        ("\uff11\uff12", "hex", 0, "hex"),
        ("ab\x1ccd", "hex", 2, "hex"),
        ("\ud800", "hex", 0, "hex"),
        ("00", "short", 0, "stream"),
        ("0401020300", "checksum", 4, "stream"),
        ("0102030400", "truncated", 3, "stream"),
        ("010203", "truncated", 3, "datagram"),
        ("44332211", "truncated", 0, "frame"),
        ("4433221120", "truncated", 1, "frame"),
        ("44332211ff" + "00" * 20, "version", 0, "frame"),
        ("4433221121" + "00" * 20, "authentication", 6, "frame"),
        ("4433221120" + "00" * 20, "authentication", 6, "frame"),
    ],
)
def test_faults_are_told_with_place(text: str, reason: str, offset: int, layer: str) -> None:
    result = inspect(text)
    assert (result["error"], result["offset"], result["layer"]) == (reason, offset, layer)


def test_a_sealed_message_that_is_malformed_is_told() -> None:
    result = inspect(seal(codec.Poll().encode() + b"\0", kind=envelope.LINK), device_id=DEVICE_ID)
    assert (result["error"], result["offset"], result["layer"]) == ("trailing", 1, "message")
    assert result["messageType"] == 0x41
    empty = inspect(seal(b""), device_id=DEVICE_ID)
    assert (empty["error"], empty["offset"], empty["layer"]) == ("short", 0, "message")


def test_a_message_in_the_wrong_kind_of_frame_is_told() -> None:
    result = inspect(seal(codec.Poll().encode()), device_id=DEVICE_ID)
    assert (result["message"], result["error"], result["layer"]) == ("poll", "kind", "message")


@pytest.mark.parametrize(
    ("key", "device_id", "form", "reason"),
    [(b"short", None, "auto", "key"), (None, -1, "auto", "range"), (None, None, "x", "form")],
)
def test_arguments_are_checked(key: bytes | None, device_id: int | None, form: str, reason: str) -> None:
    result = inspect("00", key, device_id, form)
    assert (result["error"], result["layer"]) == (reason, "arguments")


def test_a_key_does_not_fit_another_device() -> None:
    assert inspect(FRAMES[0]["frame"], device_id=DEVICE_ID + 1)["error"] == "authentication"


FORMS = st.sampled_from(["auto", "stream", "datagram", "frame", "message"])


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.text(max_size=60) | st.binary(max_size=80).map(bytes.hex), device_id=st.none() | st.just(1), form=FORMS)
def test_no_text_makes_it_fail(text: str, device_id: int | None, form: str) -> None:
    result = inspect(text, KEY, device_id, form)
    assert ("error" in result) == ("offset" in result) == ("layer" in result)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(plaintext=st.binary(max_size=60), known=st.sampled_from([1, 2, 3, 4, 5, 6, 7, 0x40, 0x41, 0x80, 0x81, 0x82]))
def test_no_sealed_content_makes_it_fail(plaintext: bytes, known: int) -> None:
    datagram = DEVICE_ID.to_bytes(4, "little") + bytes.fromhex(seal(bytes([known]) + plaintext))
    result = inspect(framing.encode_stream(datagram).hex())
    assert result["messageType"] == known


@pytest.mark.parametrize("digit", ["0", "1", "f", "x", "5a"])
def test_a_megabyte_is_answered(digit: str) -> None:
    for form in ("auto", "stream", "frame", "message"):
        assert inspect(digit * 1_000_000, KEY, DEVICE_ID, form)
