"""The emtag command. Each command is a thin shell: the work is in the module that it names."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Annotated

try:
    import typer
except ImportError:
    # The package emwire stands alone; the command is part of what the extra brings.
    sys.exit("emtag: the command needs the extra gateway, its demo the extra rig: pip install 'emtag[gateway,rig]'")

from emgate.commands import device_options as cli_devices
from emgate.commands import request_options as cli_requests

app = typer.Typer(
    name="emtag",
    help="The open device stack for electronic monitoring.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
gateway = typer.Typer(help="The gateway daemon: links, sessions, store, uplinks.", no_args_is_help=True)
backend = typer.Typer(help="The backend that gateways deliver into.", no_args_is_help=True)
cli_requests.register(gateway, backend)
cli_devices.register(gateway)
app.add_typer(gateway, name="gateway")
app.add_typer(backend, name="backend")


@gateway.command("run")
def gateway_run(
    config: Annotated[Path, typer.Option("--config", help="The gateway's TOML file.")],
) -> None:
    """Run the gateway until SIGTERM or SIGINT. Exit status 2: the configuration is wrong."""
    from emgate.commands.run_commands import run_gateway

    raise typer.Exit(run_gateway(config))


CONFIG = typer.Option("--config", help="The gateway's TOML file.")


@gateway.command("check")
def gateway_check(
    config: Annotated[Path, CONFIG],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Look for everything that would keep the gateway from its work. Exit status 0: nothing does, 2: something does."""
    from emgate.commands.check import check

    raise typer.Exit(check(config, as_json=as_json))


@gateway.command("broker-acl")
def gateway_broker_acl(config: Annotated[Path, CONFIG]) -> None:
    """Print the access list that keeps every device to its own topics (mosquitto's acl_file)."""
    from emgate.brokers.access import print_access_list

    raise typer.Exit(print_access_list(config))


@gateway.command("reload")
def gateway_reload(config: Annotated[Path, CONFIG]) -> None:
    """Let the running gateway read its configuration anew. Exit status 0: applied, 2: refused, 3: none runs."""
    from emgate.operation.running import reload

    raise typer.Exit(reload(config))


@gateway.command("status")
def gateway_status(
    config: Annotated[Path, CONFIG],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Print it and end, also on a terminal.")] = False,
) -> None:
    """Show what the gateway says of itself, live. Exit status 0: it runs, 2: nothing to be read, 3: it does not run."""
    from emgate.commands.status_view import show

    raise typer.Exit(show(config, as_json=as_json, once=once))


@gateway.command("update")
def gateway_update(
    config: Annotated[Path, CONFIG],
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="From emtag firmware build.")],
    devices: Annotated[list[str], typer.Argument(metavar="DEVICE…", help="Device ids, as 536870913 or 0x20000001.")],
    manifest: Annotated[
        Path | None, typer.Option("--manifest", metavar="FILE", help="Default: IMAGE with .manifest.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=365, help="Given up when a device is not done by then.")] = 30,
    wait: Annotated[float, typer.Option(min=0, help="Follow it for so many seconds.")] = 0.0,
) -> None:
    """Update devices' firmware. Exit status 0: asked, or with --wait done; 1: one is not; 2: refused; 3: none runs."""
    from emgate.commands.update_command import update

    try:
        numbers = [int(device, 0) for device in devices]
    except ValueError:
        raise typer.BadParameter("a device id is a number, as 536870913 or 0x20000001") from None
    raise typer.Exit(update(config, image, manifest or image.with_suffix(".manifest"), numbers, days, wait))


@gateway.command("install-unit")
def gateway_install_unit(
    root: Annotated[Path, typer.Option("--root", help="Write below this folder.")] = Path("/"),
) -> None:
    """Write the systemd unit, its user and its folders for this installation of emtag, and say what to do next."""
    from emgate.systemd import install_unit

    raise typer.Exit(install_unit(root))


@backend.command("run")
def backend_run(
    database: Annotated[Path | None, typer.Option(help="The backend's SQLite file.")] = None,
    host: Annotated[str | None, typer.Option(help="The broker that gateways send their batches to.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 1883,
    config: Annotated[
        Path | None, typer.Option("--config", help="A TOML file instead: TLS, passwords, HTTPS (docs/uplinks.md).")
    ] = None,
) -> None:
    """Ingest the batches that gateways send over MQTT and HTTPS, until SIGTERM or SIGINT."""
    from emgate.commands.run_commands import run_backend, run_backend_with

    if config is not None:
        if database is not None or host is not None:
            raise typer.BadParameter("--config says it all: leave --database and --host out")
        raise typer.Exit(run_backend_with(config))
    if database is None or host is None:
        raise typer.BadParameter("give --config FILE, or --database FILE and --host HOST")
    raise typer.Exit(run_backend(database, host, port))


@app.command()
def decode(
    frame: Annotated[
        str | None, typer.Argument(metavar="[HEX|-]", help="A frame in hexadecimal, or - for one a line on stdin.")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", help="The device's key: 32 hexadecimal digits.")] = None,
    keys: Annotated[
        Path | None, typer.Option("--keys", metavar="FILE", help="The devices' keys: a registry file of the gateway.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", help="Device id of a bare sealed frame (MQTT); of a capture, the only one to show."),
    ] = None,
    pcap: Annotated[
        Path | None,
        typer.Option("--pcap", metavar="FILE", help="A capture of MQTT traffic (pcap, pcapng) instead of HEX."),
    ] = None,
    serial: Annotated[
        Path | None, typer.Option("--serial", metavar="FILE", help="The bytes of a serial line instead of HEX.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option("--write", metavar="OUT", help="With a capture: write the opened messages as pcap.")
    ] = None,
) -> None:
    """Decode frames to JSON lines. Malformed input gives an object with error and offset, and exit status 1."""
    from emgate.commands.decode import decode_lines, decode_pcap, decode_serial

    if sum(source is not None for source in (frame, pcap, serial)) != 1:
        raise typer.BadParameter("give one of HEX, - (stdin), --pcap FILE and --serial FILE")
    if frame is not None:
        if write is not None:
            raise typer.BadParameter("--write needs --pcap or --serial")
        raise typer.Exit(decode_lines(sys.stdin if frame == "-" else [frame], key, device, keys))
    if pcap is not None:
        raise typer.Exit(decode_pcap(pcap, key, keys, device, write))
    if serial is not None:
        raise typer.Exit(decode_serial(serial, key, keys, device, write))


@app.command()
def generate(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 when a file is stale.")] = False,
) -> None:
    """Write the codecs and documents that follow from the message catalogue."""
    from emwire.generate import main as generate_main

    raise typer.Exit(generate_main(check))


@app.command("trail-size")
def trail_size(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Trails: .plt, .gpx or .csv.")],
    interval: Annotated[int | None, typer.Option("--interval", min=1, help="Keep a fix every SECONDS.")] = None,
    block: Annotated[int, typer.Option("--block", min=1, max=255, help="Fixes in a block.")] = 60,
) -> None:
    """Encode trails as position blocks, verify the round trip, and print bytes per fix as JSON lines."""
    from emgate.commands.trails import trail_size as measure

    raise typer.Exit(measure(files, interval, block))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(importlib.metadata.version("emtag"))


def _load_plugins() -> None:
    # Packages above this one (the rig) add commands of their own; imports keep pointing one way.
    for entry in importlib.metadata.entry_points(group="emtag.commands"):
        entry.load()(app)


def main() -> None:
    """Entry point of the command."""
    _load_plugins()
    app()


if __name__ == "__main__":
    main()
