"""The options of the commands that ask something of devices, at a gateway and at a backend."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

Config = Annotated[Path, typer.Option("--config", help="The gateway's TOML file.")]
Database = Annotated[Path, typer.Option("--database", help="The backend's SQLite file.")]
Device = Annotated[str, typer.Argument(metavar="DEVICE", help="The device's number, decimal or 0x….")]
OnlyDevice = Annotated[str | None, typer.Argument(metavar="[DEVICE]", help="Only of this device.")]
Wait = Annotated[str | None, typer.Option("--wait", metavar="60s", help="Wait so long for the answer.")]
Expires = Annotated[str | None, typer.Option("--expires", metavar="1h", help="Not to be sent after; default 1 hour.")]
Identity = Annotated[str | None, typer.Option("--id", help="A name for the request: the same name is sent once.")]
AsJson = Annotated[bool, typer.Option("--json", help="The request as one JSON object, at its end.")]
Kind = Annotated[str, typer.Argument(metavar="COMMAND", help="LOCATE_NOW, NOTIFY_WEARER, SELF_TEST, RANGE_TEST, …")]
Argument = Annotated[int, typer.Option("--argument", help="Its argument; meaning by command.")]
Pairs = Annotated[list[str], typer.Argument(metavar="NAME=VALUE…", help="Parameters as docs/protocol.md lists them.")]
Version = Annotated[int, typer.Option("--version", min=1, max=65535, help="Of these parameters, counted up.")]


def register(gateway: typer.Typer, backend: typer.Typer) -> None:
    """Add the commands."""

    _register_asking(gateway, Config, _submit_to_gateway, "3 no gateway runs, ")
    _register_asking(backend, Database, _submit_to_backend)

    @gateway.command("order")
    def gateway_order(
        device: Device,
        file: Annotated[Path, typer.Argument(metavar="ORDERS", help="Wearers, activations and orders (TOML).")],
        config: Config,
        version: Annotated[int, typer.Option("--version", min=1, max=65535, help="Of the order, counted up.")],
        wait: Wait = None,
        expires: Expires = None,
        request_id: Identity = None,
        as_json: AsJson = False,
    ) -> None:
        """Give a device the order of its wearer, where no backend does; exit statuses as for command."""
        from emgate.backend.order_messages import of_device
        from emgate.backend.orders import read_order_file
        from emgate.commands.request_commands import device_number, guarded

        def work() -> int:
            messages = of_device(read_order_file(file), device_number(device), version)
            body = {"kind": "order", "messages": [message.hex() for message in messages]}
            return _submit_to_gateway(config, device, body, wait, expires, request_id, as_json)

        raise typer.Exit(guarded(work))

    @gateway.command("requests")
    def gateway_requests(
        config: Config,
        device: OnlyDevice = None,
        as_json: AsJson = False,
    ) -> None:
        """What devices were asked lately, and what became of it."""
        from emgate.commands.request_commands import list_of_gateway

        raise typer.Exit(list_of_gateway(config, device, as_json))

    @backend.command("requests")
    def backend_requests(
        database: Database,
        device: OnlyDevice = None,
        as_json: AsJson = False,
    ) -> None:
        """What devices were asked lately, and what became of it."""
        from emgate.commands.request_commands import list_of_backend

        raise typer.Exit(list_of_backend(database, device, as_json))

    @backend.command("orders")
    def backend_orders(
        file: Annotated[Path, typer.Argument(metavar="ORDERS", help="Wearers, activations and orders (TOML).")],
        database: Database,
    ) -> None:
        """Make wearers, activations and orders those of a file; devices are told by the running backend."""
        from emgate.commands.request_commands import load_orders

        raise typer.Exit(load_orders(database, file))


def _register_asking(app: typer.Typer, place: Any, submit: Callable[..., int], own_status: str = "") -> None:
    """What can be asked at a gateway and, by way of the gateway that heard the device last, at a backend.

    `place`: the option that says which gateway or backend; `submit` is given its value. `own_status`: an exit status
    that only one of them has."""
    statuses = f"Exit status 0 done, 1 not, 2 refused, {own_status}4 no answer yet."

    @app.command("command", help=f"Have a device do something once. {statuses}")
    def command(
        device: Device,
        command: Kind,
        where: place,
        argument: Argument = 0,
        wait: Wait = None,
        expires: Expires = None,
        request_id: Identity = None,
        as_json: AsJson = False,
    ) -> None:
        body = {"kind": "command", "command": command, "argument": argument}
        submit(where, device, body, wait, expires, request_id, as_json)

    @app.command("parameters")
    def parameters(
        device: Device,
        pairs: Pairs,
        where: place,
        version: Version,
        wait: Wait = None,
        expires: Expires = None,
        request_id: Identity = None,
        as_json: AsJson = False,
    ) -> None:
        """Change tunables of a device's firmware; exit statuses as for command."""
        from emgate.commands.request_commands import guarded, parameters_of

        def work() -> int:
            body = {"kind": "parameters", "version": version, "parameters": parameters_of(pairs)}
            return submit(where, device, body, wait, expires, request_id, as_json)

        raise typer.Exit(guarded(work))


def _submit_to_gateway(*arguments: Any) -> int:
    from emgate.commands.request_commands import submit_to_gateway

    raise typer.Exit(submit_to_gateway(*arguments))


def _submit_to_backend(*arguments: Any) -> int:
    from emgate.commands.request_commands import submit_to_backend

    raise typer.Exit(submit_to_backend(*arguments))
