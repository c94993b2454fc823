"""The systemd unit of the gateway, its user (sysusers.d) and its folders (tmpfiles.d), and how they are installed."""

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
FILES = {
    "emtag-gateway.service": "etc/systemd/system/emtag-gateway.service",
    "emtag-gateway.sysusers": "etc/sysusers.d/emtag-gateway.conf",
    "emtag-gateway.tmpfiles": "etc/tmpfiles.d/emtag-gateway.conf",
}
COMMAND = "/opt/emtag/bin/emtag"
"""What stands in the unit as shipped; replaced by the command that installs it."""

NEXT = """Written. Now, as root:
  systemd-sysusers && systemd-tmpfiles --create
  put the configuration at /etc/emtag/gateway.toml (chown root:emtag, chmod 640) and the registry beside it
  emtag gateway check --config /etc/emtag/gateway.toml
  systemctl daemon-reload && systemctl enable --now emtag-gateway"""


def install_unit(root: Path) -> int:
    """Write the three files below `root`; 2 when that is not possible."""
    command = shutil.which(sys.argv[0]) or sys.argv[0]
    try:
        for name, place in FILES.items():
            target = root / place
            target.parent.mkdir(parents=True, exist_ok=True)
            text = (HERE / name).read_text(encoding="utf-8")
            target.write_text(text.replace(COMMAND, str(Path(command).absolute())), encoding="utf-8")
    except OSError as error:
        print(f"emtag gateway: cannot write the unit: {error}; run this as root, or give --root", file=sys.stderr)
        return 2
    print(NEXT)
    return 0
