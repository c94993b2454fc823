"""What `emtag gateway run` and `emtag backend run` do; the command line itself is in cli.py."""

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import emgate.lean  # noqa: F401  # before anything that imports structlog
from emgate import config as configuration
from emgate.errors import ConfigError, StoreError
from emgate.operation import logs
from emgate.threads import collect_seldom, share_quickly

EXIT_OK, EXIT_UNUSABLE = 0, 2


def run_gateway(config_path: Path) -> int:
    """Run a gateway until SIGTERM or SIGINT; 0 after an orderly stop, 2 when its configuration or store is unusable.

    Prints one JSON line {"ready": true, …} on standard output once every link and the uplink is up or has failed once.
    """
    share_quickly()
    collect_seldom()
    try:
        config = configuration.load(config_path)
        logs.configure(config.gateway.log_level, config.gateway.log_file)

        def ready(facts: dict[str, Any]) -> None:
            _announce(facts, config.gateway.ready_file)

        from emgate.daemon import run_until_signal  # a daemon of the one kind does without the other's libraries

        asyncio.run(run_until_signal(config, ready, config_path))
    except (ConfigError, StoreError) as error:
        print(f"emtag gateway: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    return EXIT_OK


def run_backend(database: Path, host: str, port: int = 1883) -> int:
    """Ingest the batches of all gateways from a broker until SIGTERM or SIGINT; exit statuses as for run_gateway."""
    broker = configuration.Broker(host=host, port=port)
    return _run_backend(
        configuration.BackendConfig(backend=configuration.BackendSection(database=database), mqtt=broker)
    )


def run_backend_with(config_path: Path) -> int:
    """The same from a file, where the broker wants a password or TLS, or the clock is shared."""
    try:
        return _run_backend(configuration.load_backend(config_path))
    except ConfigError as error:
        print(f"emtag backend: {error}", file=sys.stderr)
        return EXIT_UNUSABLE


def _run_backend(config: configuration.BackendConfig) -> int:
    try:
        logs.configure(config.backend.log_level, config.backend.log_file)

        def ready(facts: dict[str, Any]) -> None:
            _announce(facts, config.backend.ready_file)

        from emgate.backend.service import run_service

        asyncio.run(run_service(config.backend.database, config.mqtt, config.clock.make(), ready, config.https))
    except (ConfigError, StoreError) as error:
        print(f"emtag backend: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    return EXIT_OK


def _announce(facts: dict[str, Any], ready_file: Path | None) -> None:
    line = json.dumps(facts)
    if ready_file is not None:
        temporary = ready_file.with_name(f".{ready_file.name}.new")
        try:
            ready_file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(line + "\n", encoding="utf-8")
            temporary.replace(ready_file)
        except OSError as error:
            raise ConfigError(f"ready_file: cannot write {ready_file}: {error.strerror}; name another file") from None
    with contextlib.suppress(BrokenPipeError):  # nobody has to listen
        print(line, flush=True)
