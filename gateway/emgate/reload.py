"""A new configuration for a running gateway: read and checked beside the old one, which stays until all is well."""

import time
from pathlib import Path
from typing import Any

from emgate import config as configuration
from emgate.config import Config
from emgate.errors import ConfigError
from emgate.registry import Registry

FIXED = ("clock", "uplink", "updates", "protection", "http")
FIXED_IN_GATEWAY = ("id", "state_directory", "ready_file", "log_file")
"""What the whole process hangs on: a change is refused until a restart, so that file and process never disagree."""


def read(path: Path, present: Config) -> tuple[Config, Registry]:
    """The new configuration and its registry; ConfigError when it is wrong, or asks for what needs a restart."""
    wanted = configuration.load(path)
    fixed = [name for name in FIXED if getattr(wanted, name) != getattr(present, name)]
    fixed += [
        f"gateway.{name}"
        for name in FIXED_IN_GATEWAY
        if getattr(wanted.gateway, name) != getattr(present.gateway, name)
    ]
    if wanted.counter_share != present.counter_share:
        fixed.append("mqtt.shared_place")  # which down counters are ours: sessions have some in hand
    if fixed:
        raise ConfigError(
            f"{path}: {', '.join(fixed)} cannot change while the gateway runs: restart it, or change back"
        )
    if wanted.mqtt is not None:
        from emgate.mqtt_client import tls_context

        wanted.mqtt.read_password()
        tls_context(wanted.mqtt)
    return wanted, wanted.make_registry()


class Reloads:
    """What became of reloads, for status.json: `emtag gateway reload` waits for the count to grow."""

    def __init__(self) -> None:
        self._facts: dict[str, Any] = {"count": 0, "refused": 0, "applied": None, "reason": None, "changed": []}

    def note(self, changed: list[str] | None, reason: str | None = None) -> None:
        """`changed`: what was; None: refused for `reason`."""
        facts = self._facts
        self._facts = {
            "count": facts["count"] + 1,
            "refused": facts["refused"] + (changed is None),
            "applied": changed is not None,
            "reason": reason,
            "changed": changed or [],
            "atMs": time.time_ns() // 1_000_000,
        }

    def facts(self) -> dict[str, Any]:
        """The last one."""
        return self._facts
