"""Keys that sign firmware images, and the signed manifest that offers one (docs/update.md)."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from emwire import codec
from emwire.errors import WireError

from emrig.images.firmware_image import MODELS, Image, ImageError

SIGNATURE_BYTES = 64
CHUNK_BYTES = {"ankle_gps": 480}
"""A message of the modem comes as hexadecimal digits on one line: with the frame's 21 bytes that is 1 kB."""
LONGEST_CHUNK_BYTES = 960
PUBLIC_DIGITS = re.compile(r"[0-9a-fA-F]{128}")


def public_file(path: Path) -> Path:
    """Where the public half of the key in this file is: the file for those who flash boards."""
    return path.with_suffix(".pub.pem")


def generate(path: Path) -> ec.EllipticCurvePrivateKey:
    """A new private key in a new file that only its owner reads, its public half in one beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    if public_file(path).exists():
        raise ImageError(f"{public_file(path)} exists: a key is never overwritten; name another file")
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write_new(path, private, 0o600)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    _write_new(public_file(path), public, 0o644)
    return key


def _write_new(path: Path, text: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise ImageError(f"{path} exists: a key is never overwritten; name another file") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)


def load(path: Path) -> ec.EllipticCurvePrivateKey:
    """The private key of a PEM file; ImageError if it is none for P-256."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise ImageError(f"{path}: no unencrypted private key in PEM: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ImageError(f"{path}: not a key for P-256; make one with emtag firmware keygen")
    return key


def public_bytes(key: ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) -> bytes:
    """x and y, each 32 bytes big endian: what identity.json names as update_key, in hexadecimal."""
    public = key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else key
    point = public.public_numbers()
    return point.x.to_bytes(32, "big") + point.y.to_bytes(32, "big")


def read_public(source: str) -> bytes:
    """Those bytes of a key given as 128 hexadecimal digits, or as a PEM file of its public or its private half."""
    if PUBLIC_DIGITS.fullmatch(source):
        point = bytes.fromhex(source)
        try:
            ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + point)
        except ValueError:
            raise ImageError(f"{source[:8]}…: no point of P-256; copy what emtag firmware keygen printed") from None
        return point
    path = Path(source)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(
            f"{source}: cannot read the key: {error.strerror}; give the file of emtag firmware keygen, or the 128 "
            "hexadecimal digits that it printed"
        ) from None
    if b"PRIVATE KEY-----" in data:
        return public_bytes(load(path))
    try:
        key = serialization.load_pem_public_key(data)
    except ValueError as error:
        raise ImageError(f"{path}: no key in PEM: {error}; make one with emtag firmware keygen") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ImageError(f"{path}: not a key for P-256; make one with emtag firmware keygen")
    return public_bytes(key)


def sign(
    image: Image,
    key: ec.EllipticCurvePrivateKey,
    update_id: int,
    hardware: tuple[int, int] = (0, 255),
    install_from_s: int = 0,
    chunk_bytes: int | None = None,
) -> bytes:
    """The signed update_manifest message that offers this image."""
    manifest = codec.UpdateManifest(
        update_id,
        MODELS[image.model],
        *hardware,
        *image.version,
        image.security_version,
        install_from_s,
        len(image.data),
        chunk_bytes or CHUNK_BYTES.get(image.model, LONGEST_CHUNK_BYTES),
        image.sha256,
        bytes(SIGNATURE_BYTES),
    )
    try:
        signed = manifest.encode()[:-SIGNATURE_BYTES]
    except WireError as error:
        raise ImageError(f"no manifest can be made of this: {error}") from None
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
    return signed + r.to_bytes(32, "big") + s.to_bytes(32, "big")


def verified(manifest: bytes, public_key: bytes) -> bool:
    """Whether a manifest bears a signature of the key with these public bytes."""
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + public_key)
    signature = manifest[-SIGNATURE_BYTES:]
    pair = (int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    try:
        key.verify(encode_dss_signature(*pair), manifest[:-SIGNATURE_BYTES], ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
