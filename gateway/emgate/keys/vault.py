"""Keys at rest: what is secret on the gateway's disk is sealed by a secret that is not on it (see key_source.py).

`keys.json` of the state directory holds a salt and the store's data key, wrapped. From the secret and the salt follows
the key-encryption key; it seals the registry's keys and wraps the data key, which seals the payloads in the store.
Without the secret a copy of the disk opens none of them. Without keys.json the secret opens none either: it belongs
into the backup, where it tells nothing by itself.
"""

import json
import os
import struct
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from emgate.devices.registry import SEALED
from emgate.errors import ConfigError
from emgate.keys import key_source
from emgate.keys.key_source import Secret
from emgate.operation.owner import write_whole
from emgate.store.schema import Record

FILE = "keys.json"
FORMAT = 1
KEY_BYTES, SALT_BYTES, NONCE_BYTES = 32, 16, 12
SCRYPT_N, SCRYPT_R, SCRYPT_P = 1 << 15, 8, 3
"""OWASP's password storage cheat sheet, the row of 32 MiB: what a small board has to spare for a moment at start."""
DAY_MS = 86_400_000
NONCE = struct.Struct("<IHIxx")  # device, epoch, sequence
IN_DAY = struct.Struct("<I")
PLACE = struct.Struct("<?q")  # lane, day
CLEAR_TYPES = b"\x01\x06\x07"
"""Message types (hello, status, gap) that the store looks for by the payload's first byte; the others show as 0xFF."""


MISSING = "no secret to open the keys at rest"
REMEDY = (
    f"give a systemd credential {key_source.CREDENTIAL}, a key {key_source.CREDENTIAL} in the kernel's keyring,"
    f' {key_source.PASSPHRASE} or a passphrase_file; or, where nobody can take the disk, write at_rest = "off"'
    " in [protection]; from a shell, start the gateway first, or run this by"
    f" `systemd-run --pipe --wait -p User=emtag -p LoadCredentialEncrypted={key_source.CREDENTIAL}:FILE emtag …`"
)


class Vault:
    """Seals and opens what is secret at rest, with one key-encryption key."""

    def __init__(self, source: str, key_encryption_key: bytes, data_key: bytes) -> None:
        self.source = source
        self.payloads = PayloadCipher(data_key)
        self._keys = AESGCM(key_encryption_key)

    def seal_key(self, owner: int, use: str, key: bytes) -> str:
        """A key as a registry keeps it. `owner`: whose (a device's or beacon's number); `use`: the field's name."""
        nonce = os.urandom(NONCE_BYTES)
        return SEALED + (nonce + self._keys.encrypt(nonce, key, _bound(owner, use))).hex()

    def open_key(self, owner: int, use: str, text: str) -> bytes:
        """The other way; ValueError when it is damaged, another owner's, or sealed by another gateway's secret."""
        try:
            sealed = bytes.fromhex(text.removeprefix(SEALED))
            return self._keys.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _bound(owner, use))
        except (ValueError, InvalidTag):
            raise ValueError(
                f"the sealed key does not open: it was sealed for another {use} or device, by another gateway's secret,"
                " or is damaged; provision the device anew, or write its key in plain digits"
            ) from None


class PayloadCipher:  # emgate.store.schema.PayloadCipher
    """Seals the records of the store, each for its place: AES-256-GCM-SIV, the record's identity as the nonce.

    An identity may come twice with other bytes (a device at fault, an older store put back), and this mode gives away
    no more than that it did. The time of receipt goes along inside, and only its day stays readable outside."""

    overhead = 1 + 4 + 16  # kind, milliseconds of the day, tag

    def __init__(self, data_key: bytes) -> None:
        self._cipher = AESGCMSIV(data_key)

    def seal(self, record: Record) -> Record:
        """The record as the disk gets it."""
        device_id, epoch, sequence, alarm, received_time_ms, link, payload, row_id = record
        kind = payload[:1] if payload and payload[0] in CLEAR_TYPES else b"\xff"
        in_day_ms = received_time_ms % DAY_MS
        day_ms = received_time_ms - in_day_ms
        sealed = self._cipher.encrypt(
            NONCE.pack(device_id, epoch, sequence),
            IN_DAY.pack(in_day_ms) + payload,
            PLACE.pack(alarm, day_ms) + kind,
        )
        # Record(...) takes twice as long, and this is done for every frame.
        return Record._make((device_id, epoch, sequence, alarm, day_ms, link, kind + sealed, row_id))

    def open(self, record: Record) -> Record:
        """The record as it came; ValueError when it does not open."""
        kind, day_ms = record.payload[:1], record.received_time_ms
        try:
            inside = self._cipher.decrypt(
                NONCE.pack(record.device_id, record.epoch, record.sequence),
                record.payload[1:],
                PLACE.pack(record.alarm, day_ms) + kind,
            )
        except (ValueError, InvalidTag):
            raise ValueError("a sealed record does not open: damaged, or moved to another place") from None
        (in_day_ms,) = IN_DAY.unpack_from(inside)
        return Record(
            record.device_id,
            record.epoch,
            record.sequence,
            record.alarm,
            day_ms + in_day_ms,
            record.link,
            inside[IN_DAY.size :],
            record.row_id,
        )

    def seal_bytes(self, place: bytes, data: bytes) -> bytes:
        """Anything else that speaks of a wearer; opens only for the same place (a table's name, say)."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, data, place)

    def open_bytes(self, place: bytes, sealed: bytes) -> bytes:
        """What was sealed for that place; ValueError when it does not open."""
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], place)
        except (ValueError, InvalidTag):
            raise ValueError("sealed bytes do not open: damaged, or of another place") from None


def open_vault(
    state_directory: Path,
    at_rest: str = "auto",
    passphrase_file: Path | None = None,
    *,
    create: bool = False,
    before_create: Callable[[], object] = lambda: None,
) -> Vault | None:
    """The vault of a gateway; None when nothing is sealed (no secret was given, or `at_rest` is "off").

    `create`: make keys.json where there is none, if `before_create` does not raise.
    ConfigError: sealed keys exist and the secret is missing or wrong."""
    path = state_directory / FILE
    if at_rest == "off":
        if path.exists():
            raise ConfigError(
                f'protection.at_rest: "off", but {path} says that the store is sealed: write "auto", or move the'
                " whole state directory away to start afresh"
            )
        return None
    secret = key_source.find(passphrase_file)
    if secret is None:
        if path.exists() or at_rest == "required":
            raise ConfigError(f"protection: {MISSING}; {REMEDY}")
        return None
    if not path.exists():
        if not create:
            return None
        before_create()
        return _create(path, secret)
    return _open(path, secret)


def _create(path: Path, secret: Secret) -> Vault:
    salt, data_key, nonce = os.urandom(SALT_BYTES), os.urandom(KEY_BYTES), os.urandom(NONCE_BYTES)
    key = _key_encryption_key(secret, salt)
    facts = {
        "format": FORMAT,
        "source": secret.source,
        "salt": salt.hex(),
        "dataKey": (nonce + AESGCM(key).encrypt(nonce, data_key, _bound(0, "data_key"))).hex(),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Nothing may be sealed by a key that a power cut takes away.
        write_whole(path, json.dumps(facts).encode() + b"\n", path.parent)
    except OSError as error:
        raise ConfigError(f"{path}: cannot write the keys at rest: {error.strerror}") from None
    return Vault(secret.source, key, data_key)


def _open(path: Path, secret: Secret) -> Vault:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts["format"] != FORMAT:
            raise ConfigError(f"{path}: format {facts['format']} is newer than this program's {FORMAT}: upgrade it")
        salt, wrapped = bytes.fromhex(facts["salt"]), bytes.fromhex(facts["dataKey"])
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the keys at rest: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path}: damaged; restore it from the backup: without it nothing sealed opens") from None
    key = _key_encryption_key(secret, salt)
    try:
        data_key = AESGCM(key).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], _bound(0, "data_key"))
    except (ValueError, InvalidTag):
        raise ConfigError(
            f"{path}: the secret from the {secret.source} is not the one that sealed these keys"
            f" (they were made with one from the {facts.get('source')}): provide that one"
        ) from None
    return Vault(secret.source, key, data_key)


@lru_cache(maxsize=4)
def _key_encryption_key(secret: Secret, salt: bytes) -> bytes:
    if secret.weak:
        return Scrypt(salt=salt, length=KEY_BYTES, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P).derive(secret.value)
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=b"emtag key encryption 1").derive(secret.value)


def _bound(owner: int, use: str) -> bytes:
    return struct.pack("<I", owner) + use.encode()
