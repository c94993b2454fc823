"""The pid's advertisement: looking for the token in advertising data, opening it, and judging its counter."""

from emwire import beacon
from emwire.errors import WireError


def _swap(block: bytes) -> bytes:
    # Stands for the block cipher: a permutation that is its own inverse.
    return bytes(byte ^ 0x5A for byte in reversed(block))


def check(data: bytes) -> None:
    """Advertising data, and the same bytes as a token."""
    token = beacon.find(data)
    for candidate in (token, data):
        if candidate is None:
            continue
        device_id = int.from_bytes(_swap(candidate)[6:10], "little")
        try:
            counter, status, battery_percent = beacon.open_token(_swap, device_id, candidate)
        except WireError:
            continue
        watch = beacon.BeaconWatch(1)
        watch.heard(counter, 0)
        watch.heard(counter, 1000)
        if battery_percent <= 100 or battery_percent == 255:
            built = beacon.build(_swap, device_id, counter, status, battery_percent)
            assert beacon.find(built) == candidate
