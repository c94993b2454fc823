"""Messages: Construct, the host's codec and the devices' give the same values or refusal, and the bytes back."""

from collections.abc import Callable
from typing import Any

from emwire import catalogue, codec, device_codec
from emwire.errors import WireError


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, tuple | list) else value


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except WireError as error:
        return error.reason, error.offset


def check(data: bytes) -> None:
    """The message."""
    declared = _outcome(lambda: catalogue.parse(data))
    by_device = _outcome(lambda: device_codec.decode(data))
    try:
        message = codec.decode(data)
    except WireError as error:
        assert (error.reason, error.offset) == declared == by_device
        assert 0 <= error.offset <= len(data)
        return
    assert message.encode() == data, "a second encoding of one message"
    if isinstance(message, codec.Unknown):
        assert by_device == (message.message_type, message.raw)
        return
    values = tuple(_tuples(getattr(message, name)) for name, _ in catalogue.BY_NAME[message.NAME].fields)
    assert by_device == (message.MESSAGE_TYPE, *values)
    assert declared == (message.NAME, dict(zip(declared[1], values, strict=True)))
    encode = getattr(device_codec, "encode_" + message.NAME)
    assert encode(*values) == data
