# Why the simulated device starts: a register that survives a reset, but not the loss of power. A file stands for it.
import os

_NAME = "/reset_cause"


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
