"""`emtag flash`: one board or a rack of them, with progress, and a record of what was installed."""

from __future__ import annotations

import json
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emrig.flash.boards import definition
from emrig.flash.errors import FlashError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from emrig.flash.given import Given
    from emrig.flash.rack import Place

# Exit statuses: all boards installed and passed; one failed its self-test, or its record could not be kept; one could
# not be flashed.
PASSED, INSTALLED_ONLY, NOT_FLASHED = 0, 1, 2
RECORDS = Path("var/flash")
BROKER = re.compile(r"([A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")


def flash(
    board: Annotated[str | None, typer.Option(help="Which board it is: esp32s3, nrf52840, pico_w, …")] = None,
    model: Annotated[str | None, typer.Option(help="What it is to be: ankle_gps, home_unit, alcohol, pid.")] = None,
    port: Annotated[str | None, typer.Option(help="Its serial port.")] = None,
    every: Annotated[
        Path | None, typer.Option("--all", metavar="RACK", help="Flash every board of this rack (TOML) at once.")
    ] = None,
    device_id: Annotated[int | None, typer.Option(help="Its device id. Default: what it has, else a new one.")] = None,
    new_identity: Annotated[
        bool, typer.Option("--new-identity", help="Make it another device; what the old one left is saved first.")
    ] = False,
    registry: Annotated[
        Path | None, typer.Option(help="The registry file that learns of new devices, where its keys are not sealed.")
    ] = None,
    identity: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Who it is to be, as `gateway device add` wrote it; removed once it is."),
    ] = None,
    broker: Annotated[
        str | None, typer.Option(metavar="HOST[:PORT]", help="The devices' MQTT broker (ankle_gps).")
    ] = None,
    update_key: Annotated[
        str | None,
        typer.Option(metavar="PEM|HEX", help="Whose signed updates it takes: update-key.pub.pem of firmware keygen."),
    ] = None,
    fibre: Annotated[
        bool | None, typer.Option("--fibre/--no-fibre", help="Whether its strap has an optical fibre.")
    ] = None,
    base_image: Annotated[
        Path | None, typer.Option(help="Put this MicroPython image on it first; its data go back on it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The records as JSON lines.")] = False,
) -> None:
    """Install a model's firmware, identity and keys; test it; read it back; say what was installed.

    A board that is already this model keeps identity, keys and unsent records. Exit status
    1: a self-test failed, or a record could not be kept; 2: a board could not be flashed (it can be flashed again).
    """
    from emrig.flash.given import Given
    from emrig.flash.rack import Place, read

    given = None
    try:
        if every is not None:
            if board or model or port or device_id or base_image or identity:
                raise FlashError("--all takes boards, models and ports from the file: leave the other options out")
            places = read(every)
        elif board and port and identity is not None:
            if registry or device_id:
                raise FlashError("--identity says who it is, and that is registered: no --registry, no --device-id")
            given = Given(identity)
            who = given.identity
            if model not in (None, who.model):
                raise FlashError(f"{identity} is of device {who.device_id}, {who.model}, not {model}")
            places = [Place(board, who.model, port, who.device_id)]
        elif board and model and port:
            places = [Place(board, model, port, device_id)]
        else:
            raise FlashError("give --board, --port and --model or --identity; or --all RACK.toml")
        try:
            RECORDS.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FlashError(
                f"{RECORDS}: cannot keep records there: {error.strerror}; run it in a folder of yours"
            ) from None
        status = _flash_all(
            places,
            _Common(
                new_identity, registry, given, _broker(broker), _public_key(update_key), fibre, base_image, as_json
            ),
        )
    except FlashError as error:
        print(f"emtag flash: {error}", file=sys.stderr)
        raise typer.Exit(NOT_FLASHED) from None
    finally:
        if given is not None:
            given.close()
    raise typer.Exit(status)


class _Common:
    """What all boards of one call share."""

    def __init__(
        self,
        new_identity: bool,
        registry: Path | None,
        given: Given | None,
        mqtt: tuple[str, int] | None,
        update_key: bytes | None,
        fibre: bool | None,
        base_image: Path | None,
        as_json: bool,
    ) -> None:
        self.new_identity = new_identity
        self.registry = registry
        self.given = given
        self.mqtt = mqtt
        self.update_key = update_key
        self.fibre = fibre
        self.base_image = base_image
        self.as_json = as_json
        self.lock = threading.Lock()


def _flash_all(places: list[Place], common: _Common) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.fields[port]}"), BarColumn(), TextColumn("{task.description}"))
    with (
        Progress(*columns, console=console, disable=common.as_json) as progress,
        ThreadPoolExecutor(max_workers=max(1, len(places))) as pool,
    ):
        statuses = list(pool.map(lambda place: _flash_one(place, common, progress, console), places))
    return max(statuses, default=NOT_FLASHED)


def _flash_one(place: Place, common: _Common, progress: Progress, console: Console) -> int:
    from emrig.flash.install import Wish, install
    from emrig.flash.registration import Registration

    task = progress.add_task("connecting", port=place.port, total=None)

    def tell(what: str, done: int, of: int) -> None:
        progress.update(task, description=what, completed=done, total=of)

    with Registration(common.registry or RECORDS / "devices.toml") as registration:
        try:
            installed = install(
                Wish(
                    definition(place.board),
                    place.model,
                    place.port,
                    device_id=place.device_id,
                    new_identity=common.new_identity,
                    mqtt=common.mqtt,
                    update_key=common.update_key,
                    fibre=common.fibre,
                    base_image=common.base_image,
                    backups=RECORDS,
                    registration=registration,
                    given=common.given,
                ),
                tell,
            )
        except Exception as error:  # of one board: the rack's others go on
            if not isinstance(error, FlashError):
                error = FlashError(f"{place.port}: {type(error).__name__}: {error}: flash it again")
            progress.update(task, description="stopped")
            with common.lock:
                if common.as_json:
                    print(json.dumps({"port": place.port, "error": str(error)}), flush=True)
                else:
                    console.print(f"[red]{error}[/red]", highlight=False)
            return NOT_FLASHED
        tell("installed", 1, 1)
        record = asdict(installed)
        with common.lock:
            if common.as_json:
                print(json.dumps(record), flush=True)
            else:
                _show(record, console)
            try:
                registration.finish()
                if common.given is not None:
                    common.given.finish()
                kept = _keep(record)
            except OSError as error:
                said = f"{place.port}: it is flashed, but its record could not be kept: {error}: keep what is above"
                console.print(f"[red]{said}[/red]", highlight=False)
                return INSTALLED_ONLY
            if not common.as_json:
                console.print(f"its record is {kept}", highlight=False)
    return PASSED if installed.self_test.get("passed") else INSTALLED_ONLY


def _keep(record: dict[str, Any]) -> Path:
    from emgate.operation.owner import write_whole

    kept = RECORDS / f"{record['device_id']:08x}-{record['finished'].replace(':', '')}.json"
    write_whole(kept, json.dumps(record, indent=2).encode() + b"\n", None)
    return kept


def _show(record: dict[str, Any], console: Console) -> None:
    from rich.table import Table

    table = Table(show_header=False, title=f"{record['model']} {record['device_id']:08x} on {record['port']}")
    for name in ("board", "machine", "serial", "micropython", "firmware_version", "runs_from", "identity", "backup"):
        if record[name]:
            table.add_row(name.replace("_", " "), str(record[name]))
    table.add_row("files", f"{len(record['files'])}, each read back by SHA-256, together {record['digest']}")
    for part, outcome in record["self_test"].get("parts", {}).items():
        failed = part in record["self_test"].get("failed", ())
        table.add_row(f"self-test: {part}", f"[red]{outcome}[/red]" if failed else outcome)
    console.print(table)


def _broker(text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    found = BROKER.fullmatch(text)
    port = int(found[2] or 1883) if found else 0
    if not found or not 0 < port < 1 << 16:
        raise FlashError(f"{text!r} is no broker: give HOST or HOST:PORT, the port from 1 to 65535")
    return found[1], port


def _public_key(source: str | None) -> bytes | None:
    if source is None:
        return None
    from emrig.images import signing
    from emrig.images.firmware_image import ImageError

    try:
        return signing.read_public(source)
    except ImageError as error:
        raise FlashError(f"--update-key: {error}") from None
