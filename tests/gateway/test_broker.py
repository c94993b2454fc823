"""Starting brokers, and the supervisor that keeps links running."""

import asyncio
import signal
import socket
import subprocess
import sys
from collections import Counter

import aiomqtt
import pytest
from emgate.brokers import broker as brokers
from emgate.supervisor import Supervisor


@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
async def test_a_broker_is_ready_when_it_is_returned(kind: str) -> None:
    if kind not in brokers.available():
        pytest.skip(f"needs {kind}")
    with brokers.start_broker(kind) as broker:
        assert (broker.name, broker.host) == (kind, "127.0.0.1")
        assert broker.version[0].isdigit()
        async with aiomqtt.Client(broker.host, broker.port) as client:
            await client.publish("a", b"b", qos=1)
    assert broker.process.poll() is not None


def test_the_environment_names_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    if "amqtt" not in brokers.available():
        pytest.skip("needs amqtt")
    monkeypatch.setenv("EMTAG_BROKER", "amqtt")
    with brokers.start_broker() as broker:
        assert broker.name == "amqtt"
    monkeypatch.setenv("EMTAG_BROKER", "rabbit")
    with pytest.raises(brokers.BrokerError, match="set it to mosquitto or amqtt"):
        brokers.start_broker()


def test_without_any_broker_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brokers, "available", list)
    monkeypatch.delenv("EMTAG_BROKER", raising=False)
    with pytest.raises(brokers.BrokerError, match=r"neither mosquitto nor amqtt is installed.*Install mosquitto"):
        brokers.start_broker()


@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
def test_a_port_in_use_is_named(kind: str) -> None:
    if kind not in brokers.available():
        pytest.skip(f"needs {kind}")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(brokers.BrokerError, match=f"port {port} is in use"):
            brokers.start_broker(kind, port=port)


def test_a_broker_that_dies_at_once_shows_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    if "mosquitto" not in brokers.available():
        pytest.skip("needs mosquitto")
    monkeypatch.setattr(brokers, "MOSQUITTO_CONFIGURATION", "no_such_option true\n")
    with pytest.raises(brokers.BrokerError, match=r"ended at once.*\n.*no_such_option"):
        brokers.start_broker("mosquitto")


@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
def test_a_broker_ends_with_its_parent_however_that_ends(kind: str) -> None:
    if kind not in brokers.available():
        pytest.skip(f"needs {kind}")
    script = (
        "import sys, time; from emgate.brokers.broker import start_broker; b = start_broker(sys.argv[1]);"
        "print(b.process.pid, b.port, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, kind], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        _, port = parent.stdout.readline().split()
        with socket.create_connection(("127.0.0.1", int(port))) as connection:
            parent.send_signal(signal.SIGKILL)
            connection.settimeout(20)
            assert connection.recv(1) == b"", "closed by the broker's end"


class Flaky:
    """Fails in every way there is, then stays up."""

    name = "flaky"

    def __init__(self) -> None:
        self.up = asyncio.Event()
        self.counters: Counter[str] = Counter()
        self.ends = iter([OSError(5, "Input/output error"), OSError("lost"), ValueError("a defect"), None])

    async def run(self) -> None:
        for end in self.ends:
            if end is None:
                return
            raise end
        self.up.set()
        await asyncio.Event().wait()


async def test_a_supervisor_restarts_whatever_the_reason_and_counts_it() -> None:
    flaky = Flaky()
    supervisor = Supervisor(flaky, maximum_s=0.01)
    task = asyncio.create_task(supervisor.run())
    async with asyncio.timeout(20):
        await flaky.up.wait()
    assert supervisor.restarts == {"eio": 1, "lost": 1, "defect": 1, "ended": 1}
    task.cancel()
    await asyncio.wait([task])
