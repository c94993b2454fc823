"""MQTT topics on both Pythons."""

import pytest
from emwire import topics
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_kit import Peer, outcome


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(device_id=st.integers(0, 0xFFFFFFFF))
def test_round_trip(peer: Peer, device_id: int) -> None:
    assert topics.parse(topics.up(device_id)) == (topics.UP, device_id)
    assert topics.parse(topics.down(device_id)) == (topics.DOWN, device_id)
    assert peer.call("up", device_id) == ("ok", topics.up(device_id))
    assert peer.call("parse_topic", topics.down(device_id)) == ("ok", (topics.DOWN, device_id))


def test_form() -> None:
    assert topics.up(0x1A2B) == "emtag/v1/up/00001a2b"
    assert topics.down(0x1A2B) == "emtag/v1/down/00001a2b"
    assert topics.backend_batch("gateway-1") == "emtag/v1/backend/gateway-1/batch"
    assert topics.backend_ack("gateway-1") == "emtag/v1/backend/gateway-1/ack"


@pytest.mark.parametrize(
    ("topic", "offset"),
    [
        ("", 0),
        ("emtag", 5),
        ("emtag/v2/up/00000001", 7),
        ("emtag/v1/sideways/1", 9),
        ("emtag/v1/up/0000001", 19),
        ("emtag/v1/up/000000001", 20),
        ("emtag/v1/up/0000000A", 19),
        ("emtag/v1/up/0x000001", 13),
        ("emtag/v1/up/00_00_01", 14),
        ("emtag/v1/up/+0000001", 12),
        ("emtag/v1/up/ 0000001", 12),
        ("emtag/v1/up/00000001/x", 20),
        ("emtag/v1/down/0000000", 21),
        ("emtag/v1/up/\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661", 12),
    ],
)
def test_other_topics_are_refused(peer: Peer, topic: str, offset: int) -> None:
    assert outcome(lambda: topics.parse(topic)) == ("refused", "topic", offset)
    assert peer.call("parse_topic", topic) == ("refused", "topic", offset)


@pytest.mark.parametrize(("device_id", "reason"), [(-1, "range"), (1 << 32, "range"), (1.5, "type"), (None, "type")])
def test_device_ids_that_do_not_fit(peer: Peer, device_id: int, reason: str) -> None:
    for name, call in (("up", topics.up), ("down", topics.down)):
        assert outcome(lambda call=call: call(device_id)) == ("refused", reason, 0)  # type: ignore[misc]
        assert peer.call(name, device_id) == ("refused", reason, 0)


@pytest.mark.parametrize(("gateway_id", "offset"), [("", 0), ("a/b", 1), ("+", 0), ("gw#", 2), ("g\0", 1)])
def test_gateway_ids_that_are_no_level(gateway_id: str, offset: int) -> None:
    for call in (topics.backend_batch, topics.backend_ack):
        assert outcome(lambda call=call: call(gateway_id)) == ("refused", "topic", offset)  # type: ignore[misc]
