"""Whether the gateway's secret lies on the disk that it is to protect, so that a thief of the disk has both."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from emgate.config import Config
from emgate.errors import ConfigError
from emgate.keys import key_source, vault
from emgate.operation.places import nearest
from emgate.toml_lines import Location

ELSEWHERE = 'keep the secret off this disk: see "The secret for keys at rest" in docs/operations.md'
HOST_KEY = (
    "this machine has no TPM: a credential on its disk is opened by the host's key in /var/lib/systemd, which whoever"
    " takes the disk has too"
)


def has_tpm() -> bool:
    """Whether systemd can seal by a TPM of this machine; one without firmware, driver or library ("partial") cannot."""
    try:
        done = subprocess.run(["systemd-creds", "has-tpm2"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0 and done.stdout.split("\n", 1)[0] == "yes"


def beside(config: Config) -> Iterator[tuple[Location, str, str]]:
    """(field, problem, remedy) of a secret that goes along with the disk."""
    if config.protection.at_rest == "off":
        return
    source = _source(config)
    if source == "credential" and not has_tpm():
        yield ("protection", "at_rest"), HOST_KEY, ELSEWHERE
    path = key_source.passphrase_place(config.protection.passphrase_file)
    if source == "passphrase" and path is not None and one_disk(path, config.gateway.state_directory):
        name = "at_rest" if config.protection.passphrase_file is None else "passphrase_file"
        yield ("protection", name), f"{path} lies on the disk that it is to protect", ELSEWHERE


def _source(config: Config) -> str | None:
    """Of the secret given to this process; else, as in a shell, of the one that the keys were made with."""
    try:
        secret = key_source.find(config.protection.passphrase_file)
        if secret is not None:
            return secret.source
        return str(json.loads((config.gateway.state_directory / vault.FILE).read_text(encoding="utf-8"))["source"])
    except (ConfigError, OSError, ValueError, LookupError, TypeError):  # said by whoever needs it
        return None


def one_disk(path: Path, folder: Path) -> bool:
    """Whether a file that is there lies on the disk of a folder, or of what there is above it."""
    return path.exists() and _disk(path) == _disk(nearest(folder))


def _disk(path: Path) -> Path:
    """The whole disk, where the kernel tells of which one a file system is a part; else the file system."""
    number = path.stat().st_dev
    block = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    return block.parent if (block / "partition").exists() else block
