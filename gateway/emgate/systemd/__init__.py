"""The systemd unit of the gateway, its user (sysusers.d), its folders (tmpfiles.d) and its secret, and how they are
installed."""

import secrets
import shutil
import subprocess
import sys
from pathlib import Path

from emgate.keys.key_source import CREDENTIAL
from emgate.keys.secret_place import ELSEWHERE, HOST_KEY, has_tpm

HERE = Path(__file__).parent
FILES = {
    "emtag-gateway.service": "etc/systemd/system/emtag-gateway.service",
    "emtag-gateway.sysusers": "etc/sysusers.d/emtag-gateway.conf",
    "emtag-gateway.tmpfiles": "etc/tmpfiles.d/emtag-gateway.conf",
}
COMMAND = "/opt/emtag/bin/emtag"
"""What stands in the unit as shipped; replaced by the command that installs it."""
SEALED, DROP_IN = "etc/emtag/emtag-key.cred", "etc/systemd/system/emtag-gateway.service.d/emtag-key.conf"

NEXT = """Written. Now, as root:
  systemd-sysusers && systemd-tmpfiles --create
  put the configuration at /etc/emtag/gateway.toml (chown root:emtag, chmod 640), with
    state_directory = "/var/lib/emtag" and, at its top, registry = "/var/lib/emtag/devices.toml"
  systemctl daemon-reload && systemctl enable --now emtag-gateway
  emtag gateway check --config /etc/emtag/gateway.toml
  emtag gateway device add …"""
MADE = """The secret that keys and records are sealed by was made, and sealed by this machine's TPM ({path}).
Without it nothing sealed opens, here or on a machine that replaces this one. Write it down, keep it elsewhere:
  {secret}
"""
NOT_MADE = """No secret was made to seal keys and records by ({why}).
The gateway does not start without one. Give it from elsewhere: a passphrase_file on a stick that is taken out, or in
memory, fetched at boot; or a key in the kernel's keyring. See "The secret for keys at rest" in docs/operations.md.
"""


def install_unit(root: Path) -> int:
    """Write the files below `root`, and a secret if there is none; 2 when that is not possible."""
    command = shutil.which(sys.argv[0]) or sys.argv[0]
    try:
        for name, place in FILES.items():
            target = root / place
            target.parent.mkdir(parents=True, exist_ok=True)
            text = (HERE / name).read_text(encoding="utf-8")
            target.write_text(text.replace(COMMAND, str(Path(command).absolute())), encoding="utf-8")
        if root == Path("/"):  # a secret is sealed for the machine that it is made on
            print(make_secret(root))
    except OSError as error:
        print(f"emtag gateway: cannot write the unit: {error}; run this as root, or give --root", file=sys.stderr)
        return 2
    print(NEXT)
    return 0


def make_secret(root: Path) -> str:
    """Give the unit a new secret as a credential that a TPM seals, where it has none; what to tell about it.

    Without a TPM nothing is written: whatever opened it would lie on the same card."""
    sealed, drop_in = root / SEALED, root / DROP_IN
    tpm = has_tpm()
    if drop_in.exists() or sealed.exists():
        return f"The secret of before stays ({sealed})." + ("" if tpm else f" Warning: {HOST_KEY}; {ELSEWHERE}.")
    if not tpm:
        return NOT_MADE.format(why="this machine has no TPM that systemd-creds can seal it by")
    secret = secrets.token_hex(32)  # as text: it has to be written down
    sealed.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    try:
        subprocess.run(
            ["systemd-creds", "encrypt", "--with-key=tpm2", f"--name={CREDENTIAL}", "-", str(sealed)],
            input=secret.encode(), capture_output=True, check=True, timeout=60,
        )  # fmt: skip
    except (subprocess.SubprocessError, OSError) as error:
        said = getattr(error, "stderr", None) or str(error).encode()
        return NOT_MADE.format(why=said.decode(errors="replace").strip())
    sealed.chmod(0o600)
    drop_in.parent.mkdir(parents=True, exist_ok=True)
    drop_in.write_text(f"[Service]\nLoadCredentialEncrypted={CREDENTIAL}:/{SEALED}\n", encoding="utf-8")
    return MADE.format(path=sealed, secret=secret)
