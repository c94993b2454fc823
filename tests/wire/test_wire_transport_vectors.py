"""What transports refuse, on both Pythons: frames that do not open, fragments that do not join, wrong topics."""

import json
from typing import Any

from emgate.keys.sealing import Ccm
from emwire import codec, envelope, fragments, topics
from wire_kit import VECTORS, Peer, outcome


def vectors(name: str) -> list[dict[str, Any]]:
    return json.loads((VECTORS / name).read_text())  # type: ignore[no-any-return]


def opened(key: bytes, device_id: int, frame: bytes) -> tuple[int, int, int, bytes]:
    return envelope.open_frame(Ccm(key), device_id, frame)


def test_refused_frames(peer: Peer) -> None:
    reasons = set()
    for vector in vectors("refused_frames.json"):
        key, frame, device_id = bytes.fromhex(vector["key"]), bytes.fromhex(vector["frame"]), vector["device_id"]
        expected = ("refused", vector["reason"], vector["offset"])
        assert outcome(lambda k=key, d=device_id, f=frame: envelope.open_frame(Ccm(k), d, f)) == expected, vector[
            "case"
        ]  # type: ignore[misc]
        assert peer.call("open_frame", key, device_id, frame) == expected, vector["case"]
        reasons.add(vector["reason"])
    assert reasons == {"truncated", "oversize", "version", "authentication"}


def test_the_frame_they_were_made_of_opens(peer: Peer) -> None:
    """Otherwise they could be refused for something else."""
    for vector in vectors("refused_frames.json"):
        if vector["case"] == "another device":
            key, frame, device_id = (
                bytes.fromhex(vector["key"]),
                bytes.fromhex(vector["frame"]),
                vector["device_id"] - 1,
            )
            opened = envelope.open_frame(Ccm(key), device_id, frame)
            assert codec.decode(opened[3]).NAME == "gap"
            assert peer.call("open_frame", key, device_id, frame) == ("ok", opened)
            return
    raise AssertionError("no such vector")


def test_refused_fragments(peer: Peer) -> None:
    for vector in vectors("refused_fragments.json"):
        parts = [bytes.fromhex(part) for part in vector["fragments"]]
        reassembler = fragments.Reassembler()
        assert [reassembler.feed(part) for part in parts] == [None] * len(parts)
        counted = {name: getattr(reassembler, name) for name in ("stray", "interrupted", "damaged", "oversize")}
        assert {name: count for name, count in counted.items() if count} == vector["counters"], vector["case"]
        assert peer.call("reassemble", parts) == ("ok", ())


def test_topics(peer: Peer) -> None:
    for vector in vectors("topics.json"):
        name = vector["topic"]
        if "reason" in vector:
            expected: tuple[Any, ...] = ("refused", vector["reason"], vector["offset"])
        else:
            direction = {"up": topics.UP, "down": topics.DOWN}[vector["direction"]]
            expected = ("ok", (direction, vector["device_id"]))
            assert getattr(topics, vector["direction"])(vector["device_id"]) == name
        assert outcome(lambda n=name: topics.parse(n)) == expected  # type: ignore[misc]
        assert peer.call("parse_topic", name) == expected
