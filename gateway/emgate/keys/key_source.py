"""Where the gateway's secret comes from: the one that opens its other keys and is never in its configuration.

In this order: systemd's credential directory (a credential sealed by the TPM or the host's key), the kernel's keyring,
a passphrase in the environment or in a file. The first that is there counts.
"""

import contextlib
import ctypes
import errno
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

from emgate.errors import ConfigError

CREDENTIAL = "emtag-key"
"""Name of the systemd credential, and description of the key (type `user`) in the kernel's keyring."""
PASSPHRASE, PASSPHRASE_FILE = "EMTAG_KEY_PASSPHRASE", "EMTAG_KEY_PASSPHRASE_FILE"
SECRET_BYTES = 16
"""A secret made by a machine has at least this many bytes: shorter ones can be guessed."""
PASSPHRASE_CHARACTERS = 12
"""With scrypt's cost, some years of guessing on one card even for a simple phrase; longer is better."""


_read: dict[Path, str] = {}
"""Passphrases that this process has read. A reload wants them again when their stick has been taken out."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret and where it was found. `weak`: chosen by a person, so that guessing has to be made slow."""

    source: str
    value: bytes = field(repr=False)
    weak: bool = False


def find(passphrase_file: Path | None = None) -> Secret | None:
    """The secret, or None when nobody has provided one; ConfigError when one is there and cannot be used."""
    return _credential() or _keyring() or _passphrase(passphrase_file)


def leave_no_core() -> None:
    """From now on a crash of this process writes no memory to a disk (prctl(2), PR_SET_DUMPABLE)."""
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)


def _credential() -> Secret | None:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return None
    path = Path(folder) / CREDENTIAL
    try:
        value = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the credential: {error.strerror}") from None
    return _strong("credential", value, f"the systemd credential {CREDENTIAL}")


def _strong(source: str, value: bytes, what: str) -> Secret:
    if len(value) < SECRET_BYTES:
        raise ConfigError(
            f"{what} has {len(value)} bytes: make one of at least {SECRET_BYTES}, for example by"
            " `head -c 32 /dev/urandom`"
        )
    return Secret(source, value)


def passphrase_place(passphrase_file: Path | None) -> Path | None:
    """The file that a passphrase is read from; None where none is named, or the environment has the text itself."""
    if PASSPHRASE in os.environ:
        return None
    named = os.environ.get(PASSPHRASE_FILE)
    return Path(named) if named else passphrase_file


def _passphrase(passphrase_file: Path | None) -> Secret | None:
    text = os.environ.get(PASSPHRASE)
    path = passphrase_place(passphrase_file)
    place = f"the environment's {PASSPHRASE}"
    if path is not None:
        place = str(path)
        try:
            text = path.read_text(encoding="utf-8").split("\n", 1)[0]
            _read[path] = text
        except (OSError, UnicodeDecodeError) as error:
            text = _read.get(path)
            if text is None:
                raise ConfigError(f"{path}: cannot read the passphrase: {error}") from None
    if text is None:
        return None
    if len(text) < PASSPHRASE_CHARACTERS:
        raise ConfigError(f"{place}: the passphrase is too short: give at least {PASSPHRASE_CHARACTERS} characters")
    return Secret("passphrase", text.encode(), weak=True)


# -- the kernel's keyring -------------------------------------------------------------------------------------

# keyctl(2): its number on the machines that a gateway runs on (asm/unistd.h), its operations (linux/keyctl.h).
_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "armv7l": 311, "armv6l": 311, "i686": 288}
_LINK, _SEARCH, _READ = 8, 10, 11
_SESSION_KEYRING, _USER_KEYRING = -3, -4
_LONGEST = 4096


def _keyctl(operation: int, *arguments: object) -> int:
    number = _KEYCTL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, "keyctl is not known here")
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    passed = [ctypes.c_long(a) if isinstance(a, int) else a for a in (number, operation, *arguments)]
    result: int = library.syscall(*passed)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _keyring() -> Secret | None:
    try:
        # Only a key that can be reached from the session's keyring may be read; a service's is a fresh one.
        _keyctl(_LINK, _USER_KEYRING, _SESSION_KEYRING)
    except (OSError, AttributeError):
        pass  # then it may be in the session's keyring itself
    try:
        key = _keyctl(_SEARCH, _SESSION_KEYRING, b"user", CREDENTIAL.encode(), 0)
    except (OSError, AttributeError):
        return None  # no such key, or a system without keyrings
    buffer = ctypes.create_string_buffer(_LONGEST)
    try:
        length = _keyctl(_READ, key, buffer, _LONGEST)
    except OSError as error:
        raise ConfigError(
            f"the key {CREDENTIAL} of the kernel's keyring cannot be read: {error.strerror}; it must belong to the"
            " gateway's user"
        ) from None
    return _strong("keyring", buffer.raw[: min(length, _LONGEST)], f"the key {CREDENTIAL} of the kernel's keyring")
