"""`emtag firmware …`: make the key that signs, build an image, sign it, show what it holds (docs/update.md)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from emwire import codec, constants
from emwire.errors import WireError

from emrig.images import firmware_image, signing
from emrig.images.firmware_image import ImageError, Version

UNUSABLE = 2

firmware = typer.Typer(help="Build and sign firmware images for updates over the air.", no_args_is_help=True)
KEY = typer.Option("--key", metavar="PEM", help="The private key that signs, from emtag firmware keygen.")


def _guarded(work: Callable[[], None]) -> None:
    try:
        work()
    except (ImageError, OSError) as error:
        print(f"emtag firmware: {error}", file=sys.stderr)
        raise typer.Exit(UNUSABLE) from None


def parse_version(text: str) -> Version:
    """(1, 2, 3) of "1.2.3"."""
    parts = text.split(".")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and int(part) <= 255 for part in parts):
        raise typer.BadParameter(f"{text!r} is no version; write for example 1.2.3, each part at most 255")
    return int(parts[0]), int(parts[1]), int(parts[2])


def parse_hardware(text: str) -> tuple[int, int]:
    """(1, 4) of "1-4", (2, 2) of "2"."""
    first, dash, last = text.partition("-")
    numbers = [first, last if dash else first]
    if not all(part.isascii() and part.isdigit() and int(part) <= 255 for part in numbers) or int(numbers[0]) > int(
        numbers[1]
    ):
        raise typer.BadParameter(f"{text!r} are no hardware revisions; write for example 2 or 1-4, at most 255")
    return int(numbers[0]), int(numbers[1])


def parse_time(text: str) -> int:
    """Wire time of an ISO 8601 moment; UTC where it says nothing else."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time; write for example 2026-12-01T02:00:00Z") from None
    seconds = int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()) - constants.TIME_EPOCH_UNIX_S
    if not 0 < seconds <= 0xFFFF_FFFF:
        raise typer.BadParameter(f"{text!r} is before 2010 or after 2146")
    return seconds


@firmware.command("keygen")
def keygen(file: Annotated[Path, typer.Argument(metavar="PEM", help="Where to write it; never overwritten.")]) -> None:
    """Make a key that signs images. Its public half, for emtag flash --update-key, is printed and put beside it.

    update-key.pem signs, and stays where images are signed; update-key.pub.pem goes to where boards are flashed.
    """

    def work() -> None:
        print(signing.public_bytes(signing.generate(file)).hex())

    _guarded(work)


@firmware.command("build")
def build(
    model: Annotated[str, typer.Option(help=", ".join(firmware_image.MODELS) + ".")],
    board: Annotated[str, typer.Option(help=", ".join(firmware_image.ARCHITECTURES) + ".")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The image to write.")],
    version: Annotated[str | None, typer.Option(help="Default: that of firmware/common/version.py.")] = None,
    security_version: Annotated[int | None, typer.Option(min=0, max=65535, help="Likewise.")] = None,
) -> None:
    """Compile a model's firmware for a board into one image. The same sources give the same bytes."""
    wanted = parse_version(version) if version else None

    def work() -> None:
        image = firmware_image.build(model, board, wanted, security_version)
        out.write_bytes(image.data)
        print(f"{out}: {len(image.data)} bytes, {len(image.tree)} files, SHA-256 {image.sha256.hex()}")

    _guarded(work)


@firmware.command("names")
def names(
    model: Annotated[str, typer.Option(help=", ".join(firmware_image.MODELS) + ".")],
    board: Annotated[str, typer.Option(help=", ".join(firmware_image.ARCHITECTURES) + ".")],
) -> None:
    """Print what the names in a board's traceback are in the sources, as JSON. Of the same sources as its image."""
    _guarded(lambda: print(firmware_image.names(model, board)))


@firmware.command("sign")
def sign(
    image: Annotated[Path, typer.Argument(metavar="IMAGE")],
    key: Annotated[Path, KEY],
    update_id: Annotated[int, typer.Option("--update-id", min=1, max=0xFFFF_FFFF, help="Higher than the last one's.")],
    hardware: Annotated[str, typer.Option(help="Hardware revisions it is for, as 1-4.")] = "0-255",
    install_from: Annotated[str | None, typer.Option(help="Not to be installed before, as 2026-12-01T02:00Z.")] = None,
    chunk_bytes: Annotated[
        int | None, typer.Option(min=64, max=960, help="Default: what the model's link takes.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Default: IMAGE with .manifest.")] = None,
) -> None:
    """Write the signed manifest that offers an image to devices."""
    revisions, from_s = parse_hardware(hardware), parse_time(install_from) if install_from else 0

    def work() -> None:
        parsed = firmware_image.parse(image.read_bytes())
        manifest = signing.sign(parsed, signing.load(key), update_id, revisions, from_s, chunk_bytes)
        target = out or image.with_suffix(".manifest")
        target.write_bytes(manifest)
        print(f"{target}: update {update_id}, {parsed.model} {'.'.join(map(str, parsed.version))} for {parsed.board}")

    _guarded(work)


@firmware.command("show")
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An image, a manifest or a key.")],
    public_key: Annotated[
        str | None, typer.Option("--public-key", metavar="HEX", help="Check a manifest's signature by this update_key.")
    ] = None,
) -> None:
    """Print what an image, a manifest or a key holds, as JSON. Exit status 2: damaged, or signed by another key."""

    def work() -> None:
        data = file.read_bytes()
        if data.startswith(b"-----BEGIN"):
            print(json.dumps({"updateKey": signing.read_public(str(file)).hex()}))
        elif data.startswith(firmware_image.MAGIC):
            print(firmware_image.describe(firmware_image.parse(data)))
        else:
            _show_manifest(file, data, public_key)

    _guarded(work)


def _show_manifest(file: Path, data: bytes, public_key: str | None) -> None:
    try:
        manifest = codec.decode(data)
    except WireError as error:
        raise ImageError(f"{file} is no image, key or manifest ({error})") from None
    if not isinstance(manifest, codec.UpdateManifest):
        raise ImageError(f"{file} is a message, but no manifest")
    facts = {name: getattr(manifest, name) for name in manifest.__slots__}
    print(json.dumps({name: value.hex() if isinstance(value, bytes) else value for name, value in facts.items()}))
    if public_key is not None:
        try:
            good = signing.verified(data, bytes.fromhex(public_key))
        except ValueError:
            raise ImageError("--public-key must be 128 hexadecimal digits of a point of P-256") from None
        if not good:
            raise ImageError(f"{file} is not signed by this key")
