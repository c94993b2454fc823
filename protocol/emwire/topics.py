"""MQTT topic names. Runs on CPython and MicroPython."""

from emwire.errors import WireError

UP = 0
DOWN = 1
UP_FILTER = "emtag/v1/up/+"
DOWN_FILTER = "emtag/v1/down/+"
BACKEND_BATCH_FILTER = "emtag/v1/backend/+/batch"

_UP = "emtag/v1/up/"
_DOWN = "emtag/v1/down/"
_HEX = "0123456789abcdef"


def up(device_id: int) -> str:
    """Topic on which a device publishes."""
    return _UP + _hexadecimal(device_id)


def down(device_id: int) -> str:
    """Topic to which a device subscribes."""
    return _DOWN + _hexadecimal(device_id)


def parse(topic: str) -> "tuple[int, int]":
    """(UP or DOWN, device_id); WireError("topic") at the first wrong character for any other topic."""
    for direction, prefix in ((UP, _UP), (DOWN, _DOWN)):
        if topic.startswith(prefix):
            digits = topic[len(prefix) :]
            for index in range(8):
                if index >= len(digits) or digits[index] not in _HEX:
                    raise WireError("topic", len(prefix) + index)
            if len(digits) > 8:
                raise WireError("topic", len(prefix) + 8)
            return direction, int(digits, 16)
    agreed = 0
    for prefix in (_UP, _DOWN):
        same = 0
        while same < len(topic) and same < len(prefix) and topic[same] == prefix[same]:
            same += 1
        agreed = max(agreed, same)
    raise WireError("topic", agreed)


def backend_batch(gateway_id: str) -> str:
    """Topic on which a gateway publishes batches of records."""
    return "emtag/v1/backend/" + _level(gateway_id) + "/batch"


def backend_ack(gateway_id: str) -> str:
    """Topic on which the backend acknowledges a gateway's batches."""
    return "emtag/v1/backend/" + _level(gateway_id) + "/ack"


def backend_down(gateway_id: str) -> str:
    """Topic on which the backend asks a gateway to send something to a device."""
    return "emtag/v1/backend/" + _level(gateway_id) + "/down"


def _hexadecimal(device_id: int) -> str:
    if type(device_id) is not int:
        raise WireError("type", 0)
    if not 0 <= device_id <= 0xFFFFFFFF:
        raise WireError("range", 0)
    return f"{device_id:08x}"


def _level(name: str) -> str:
    """A name that is one level of a topic: not empty, without separator, wildcards or NUL (MQTT 3.1.1 §4.7)."""
    if not name:
        raise WireError("topic", 0)
    for index in range(len(name)):
        if name[index] in "/+#\0":
            raise WireError("topic", index)
    return name
