"""The options of `emtag gateway device …`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path, typer.Option("--config", help="The gateway's TOML file.")]
Device = Annotated[str, typer.Argument(metavar="DEVICE", help="The device's number, decimal or 0x….")]


class Model(StrEnum):
    """Models of devices."""

    ankle_gps = "ankle_gps"
    home_unit = "home_unit"
    alcohol = "alcohol"
    pid = "pid"


def register(gateway: typer.Typer) -> None:
    """Add the commands."""
    device = typer.Typer(help="The devices that the gateway answers to (its registry file).", no_args_is_help=True)
    gateway.add_typer(device, name="device")

    @device.command("add")
    def device_add(
        number: Device,
        config: Config,
        model: Annotated[Model, typer.Option("--model", help="What it is.")],
        key_file: Annotated[
            Path | None,
            typer.Option("--key-file", help="A file with its key: 32 hexadecimal digits. Default: a new key."),
        ] = None,
        identity: Annotated[
            Path | None,
            typer.Option(
                "--identity", metavar="FILE", help="Write here, in memory, what `emtag flash --identity` takes (0600)."
            ),
        ] = None,
        replace: Annotated[
            bool, typer.Option("--replace", help="It is listed: give it another key; the former one counts no more.")
        ] = False,
    ) -> None:
        """List a new device. What it sent before is taken out of quarantine."""
        from emgate.commands.device_commands import add

        raise typer.Exit(add(config, number, model.value, key_file, identity, replace=replace))

    @device.command("list")
    def device_list(
        config: Config, as_json: Annotated[bool, typer.Option("--json", help="One JSON list.")] = False
    ) -> None:
        """Every device, and every stranger whose frames are in quarantine."""
        from emgate.commands.device_commands import show_list

        raise typer.Exit(show_list(config, as_json))

    @device.command("rotate-key")
    def device_rotate_key(number: Device, config: Config) -> None:
        """Give a device a new key over the air."""
        from emgate.commands.device_commands import rotate_key

        raise typer.Exit(rotate_key(config, number))

    @device.command("revoke")
    def device_revoke(number: Device, config: Config) -> None:
        """Take nothing from a device any more: its frames are kept in quarantine."""
        from emgate.commands.device_commands import set_revoked

        raise typer.Exit(set_revoked(config, number, True))

    @device.command("release")
    def device_release(number: Device, config: Config) -> None:
        """Take a revoked device's frames again, with those in quarantine."""
        from emgate.commands.device_commands import set_revoked

        raise typer.Exit(set_revoked(config, number, False))

    @device.command("seal")
    def device_seal(config: Config) -> None:
        """Seal the keys that stand in the registry in plain digits, where this gateway has a secret to seal by."""
        from emgate.commands.device_commands import seal_all

        raise typer.Exit(seal_all(config))
