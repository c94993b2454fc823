"""The access list of the devices' broker: a device may use its own two topics, gateways and backend what they need.

For mosquitto, where the user name is the device's number: with `use_identity_as_username true` the common name of its
certificate, otherwise what it logs in with. A broker that is compromised or set up wrongly gains little: frames are
sealed, and the gateway refuses a frame that the device of its topic did not seal.
"""

import sys
from pathlib import Path

from emwire import topics

from emgate import config as configuration
from emgate.config import Config, UplinkSection
from emgate.errors import ConfigError

BACKEND = "backend"
HEADER = """\
# Access list for mosquitto. In mosquitto.conf:
#   allow_anonymous false
#   acl_file THIS FILE
#   require_certificate true
#   use_identity_as_username true
# and, so that nothing is dropped to a slow subscriber and no small packet waits 40 ms for another:
#   max_queued_messages 0
#   set_tcp_nodelay true
# The common name of a device's certificate is its number as in its topics: 8 hexadecimal digits in lower case.
# That of this gateway's certificate is {user}. Without certificates the same names are user names.

# Every device: its own topics only.
pattern write {up}%u
pattern read {down}%u
"""


def access_list(config: Config) -> str:
    """As `emtag gateway broker-acl` prints it; ConfigError when the configuration has no [mqtt]."""
    if config.mqtt is None:
        raise ConfigError("no [mqtt] in the configuration: there is no broker to write an access list for")
    user = config.mqtt.username or config.gateway.id
    up, down = topics.UP_FILTER.removesuffix("+"), topics.DOWN_FILTER.removesuffix("+")
    lines = [
        f"user {user}",
        f"topic read {topics.UP_FILTER}",
        f"topic write {topics.DOWN_FILTER}",
        f"topic readwrite emtag/v1/gateway/{config.gateway.id}/probe",
    ]
    if config.mqtt.shared_group is not None:
        lines += [
            "# Gateways that share this fleet tell each other that they are there, and hand frames on.",
            f"topic readwrite emtag/v1/group/{config.mqtt.shared_group}/#",
        ]
    for target in config.uplink:
        if target.kind == "mqtt":
            lines += _uplink(target, config.gateway.id)
    return HEADER.format(user=user, up=up, down=down) + "\n# This gateway.\n" + "\n".join(lines) + "\n"


def _uplink(target: UplinkSection, gateway_id: str) -> list[str]:
    """Where it goes over this broker, it would be cut off without a word: mosquitto acknowledges what it refuses."""
    broker = target.mqtt()
    return [
        "",
        f"# Its uplink {target.name!r}, to {broker.host}:{broker.port}; leave this out if that is another broker.",
        f"user {broker.username or gateway_id}",
        f"topic write {topics.backend_batch(gateway_id)}",
        f"topic read {topics.backend_ack(gateway_id)}",
        f"topic read {topics.backend_down(gateway_id)}",
        f"# The backend there: instead of {BACKEND} write its user name, or its certificate's common name.",
        f"user {BACKEND}",
        f"topic read {topics.BACKEND_BATCH_FILTER}",
        f"topic write {topics.backend_ack(gateway_id)}",
        f"topic write {topics.backend_down(gateway_id)}",
    ]


def print_access_list(config_path: Path) -> int:
    """To standard output; exit status 2 when there is none to be made."""
    try:
        print(access_list(configuration.load(config_path, open_keys=False)), end="")
    except ConfigError as error:
        print(f"emtag gateway: {error}", file=sys.stderr)
        return 2
    return 0
