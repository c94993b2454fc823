"""MQTT topic names."""

from emwire import topics
from emwire.errors import WireError


def check(data: bytes) -> None:
    """The topic in UTF-8; what is none becomes lone surrogates, which a str may hold."""
    topic = data.decode("utf-8", "surrogateescape")
    try:
        direction, device_id = topics.parse(topic)
    except WireError as error:
        assert 0 <= error.offset <= len(topic)
        return
    assert (topics.up if direction == topics.UP else topics.down)(device_id) == topic
