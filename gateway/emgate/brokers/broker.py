"""Starts an MQTT broker on a free loopback port: mosquitto where installed, otherwise the embedded amqtt.

Run as a program (`python -m emgate.brokers.broker`) it is the embedded broker's own process.
"""

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

START_S = 20.0
"""Patience until a broker is ready: mosquitto takes 0.1 s, amqtt 1-3 s on a slow machine."""
STOP_S = 5.0
Kind = Literal["mosquitto", "amqtt"]

MOSQUITTO_CONFIGURATION = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence {persistence}
{location}
# Its defaults drop QoS 1 messages to a slow subscriber without a word to either side.
max_queued_messages 0
max_inflight_messages 1000
# Else a small packet waits until the client has acknowledged the one before, which it delays by up to 40 ms.
set_tcp_nodelay true
{user}
"""


class BrokerError(Exception):
    """No broker could be started; the text says why and what to do."""


def mosquitto_path() -> str | None:
    """Where mosquitto is installed; distributions put it into sbin, which is not on every user's path."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")


def available() -> list[Kind]:
    """The brokers that can be started here, preferred first."""
    found: list[Kind] = []
    if mosquitto_path():
        found.append("mosquitto")
    if importlib.util.find_spec("amqtt"):
        found.append("amqtt")
    return found


@dataclass
class RunningBroker:
    """A broker process of our own. Use it as a context manager, or call stop()."""

    name: str
    version: str
    host: str
    port: int
    process: "subprocess.Popen[str]"
    log_file: Path
    _scratch: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False)

    def stop(self) -> None:
        """End the process and remove its scratch files. Safe to call twice."""
        _end(self.process)
        self._scratch.close()

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_broker(
    kind: Kind | None = None, *, port: int | None = None, directory: Path | None = None, log_file: Path | None = None
) -> RunningBroker:
    """Start a broker and return once it accepts connections; BrokerError otherwise.

    kind: None takes what the environment's EMTAG_BROKER names, else mosquitto, else amqtt. port: None takes a free
    one. directory: where mosquitto keeps sessions and queued messages over a restart of it (None: nowhere; amqtt
    never does). It ends with this process, however that ends (Linux with util-linux; elsewhere only in good order)."""
    kinds = available()
    named = os.environ.get("EMTAG_BROKER")
    if kind is None and named:
        if named not in ("mosquitto", "amqtt"):
            raise BrokerError(f"EMTAG_BROKER={named}: set it to mosquitto or amqtt")
        kind = "mosquitto" if named == "mosquitto" else "amqtt"
    chosen: Kind | None = kind if kind in kinds else None if kind or not kinds else kinds[0]
    if chosen is None:
        raise BrokerError(
            f"no MQTT broker: {f'{kind} is not' if kind else 'neither mosquitto nor amqtt is'} installed. "
            'Install mosquitto (apt install mosquitto), or the extra "rig" of emtag for the embedded one'
        )
    scratch = contextlib.ExitStack()
    folder = Path(scratch.enter_context(tempfile.TemporaryDirectory(prefix="emtag-broker-")))
    log_path = log_file or folder / "broker.log"
    try:
        for attempts_left in (4, 3, 2, 1, 0):
            taken = port or _free_port()
            try:
                return _start(chosen, taken, folder, directory, log_path, scratch)
            except _PortTakenError:
                # Somebody took the port between our looking and the broker's binding.
                if port is not None or not attempts_left:
                    raise BrokerError(f"port {taken} is in use: stop its user, or name another port") from None
        raise AssertionError("unreachable")
    except BaseException:
        scratch.close()
        raise


class _PortTakenError(Exception):
    pass


def _start(
    kind: Kind, port: int, folder: Path, directory: Path | None, log_path: Path, scratch: contextlib.ExitStack
) -> RunningBroker:
    if kind == "mosquitto":
        configuration = folder / "mosquitto.conf"
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
        configuration.write_text(
            MOSQUITTO_CONFIGURATION.format(
                port=port,
                persistence="true" if directory else "false",
                location=f"persistence_location {directory.resolve()}/" if directory else "",
                # As root it would change to a user that cannot read our scratch folder.
                user="user root" if _is_root() else "",
            ),
            encoding="utf-8",
        )
        command = [mosquitto_path() or "mosquitto", "-c", str(configuration), "-v"]
        ready = re.compile(r"mosquitto version (?P<version>\S+) running")
    else:
        command = [sys.executable, "-m", "emgate.brokers.broker", str(port)]
        ready = re.compile(r"amqtt version (?P<version>\S+) running")
    setpriv = shutil.which("setpriv")
    if setpriv:
        command = [setpriv, "--pdeathsig", "TERM", *command]
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True)
    try:
        version = _await_ready(process, log_path, ready)
    except BaseException:
        _end(process)
        raise
    return RunningBroker(kind, version, "127.0.0.1", port, process, log_path, scratch)


def _await_ready(process: "subprocess.Popen[str]", log_path: Path, ready: "re.Pattern[str]") -> str:
    """The version from the line in the broker's log that says it runs."""
    for _ in range(int(START_S / 0.02)):
        text = log_path.read_text(encoding="utf-8", errors="replace")
        found = ready.search(text)
        if found:
            return found["version"]
        try:
            process.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
        if "ddress already in use" in text or "ddress already in use" in log_path.read_text(errors="replace"):
            raise _PortTakenError
        tail = "\n".join(log_path.read_text(errors="replace").splitlines()[-5:])
        raise BrokerError(f"the MQTT broker ended at once with status {process.returncode}:\n{tail}")
    raise BrokerError(f"the MQTT broker was not ready within {START_S:.0f} s; its log: {log_path}")


def _end(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


async def _embedded(port: int) -> None:
    """Run amqtt until terminated."""
    from amqtt.broker import Broker

    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            # Only what is needed: its packet logger and its $SYS topics cost more than the traffic.
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await broker.start()
    print(f"amqtt version {importlib.metadata.version('amqtt')} running", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await broker.shutdown()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(_embedded(int(sys.argv[1])))
