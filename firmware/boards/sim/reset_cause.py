# What survives a reset of the simulated device, but not the loss of power: the cause of the reset, and the real-time
# clock. Files stand for them.
import os

_NAME = "/reset_cause"
_CLOCK = "/real_time_clock"
# Of a 32.768 kHz crystal, as common/clock.py has it.
_DRIFT_PPM = 20


def keep(storage_path, cause):
    """Before a reset."""
    with open(storage_path + _NAME, "w") as file:
        file.write(str(cause))


def take(storage_path) -> int:
    """The cause that was kept, 0 if none: power was applied."""
    try:
        with open(storage_path + _NAME) as file:
            cause = int(file.read())
        os.remove(storage_path + _NAME)
        return cause
    except (OSError, ValueError):
        return 0


def write_clock(storage_path, now_ms, utc_ms, uncertainty_ms):
    """Set the real-time clock."""
    with open(storage_path + _CLOCK, "w") as file:
        file.write("%d %d %d" % (now_ms, utc_ms, uncertainty_ms))


def read_clock(storage_path, now_ms):
    """(utc_ms, uncertainty_ms), or None if it was never set."""
    try:
        with open(storage_path + _CLOCK) as file:
            set_ms, utc_ms, uncertainty_ms = [int(text) for text in file.read().split()]
    except (OSError, ValueError):
        return None
    passed = now_ms - set_ms
    return utc_ms + passed, uncertainty_ms + passed * _DRIFT_PPM // 1000000 + 1
