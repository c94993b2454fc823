"""The access list of the devices' broker: a device may use its own two topics, and gateways what they need.

For mosquitto, where the user name is the device's number: with `use_identity_as_username true` the common name of its
certificate, otherwise what it logs in with. A broker that is compromised or set up wrongly gains little: frames are
sealed, and the gateway refuses a frame that the device of its topic did not seal.
"""

import sys
from pathlib import Path

from emwire import topics

from emgate import config as configuration
from emgate.config import Config
from emgate.errors import ConfigError

HEADER = """\
# Access list for mosquitto. In mosquitto.conf:
#   allow_anonymous false
#   acl_file THIS FILE
#   require_certificate true
#   use_identity_as_username true
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
    return HEADER.format(user=user, up=up, down=down) + "\n# This gateway.\n" + "\n".join(lines) + "\n"


def print_access_list(config_path: Path) -> int:
    """To standard output; exit status 2 when there is none to be made."""
    try:
        print(access_list(configuration.load(config_path, open_keys=False)), end="")
    except ConfigError as error:
        print(f"emtag gateway: {error}", file=sys.stderr)
        return 2
    return 0
