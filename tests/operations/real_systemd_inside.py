"""What `real_systemd.py` runs as root inside the machine that it boots: starts the installed unit, and attacks it.

Writes a line for each fact to the file given, and exits 1 when one of them is not so."""
# ruff: noqa: ASYNC110, ASYNC240  # waits for what systemd shows, which has no event; nobody else uses this loop

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(CHECKOUT / folder) for folder in ("firmware", "tests", "tests/gateway")]

from certificates import Authority  # noqa: E402
from gateway_kit import Port, Tag, event_record, identities, over_mqtt, over_serial, status_record  # noqa: E402

SERVICE, UNIT = "emtag-gateway", Path("/etc/systemd/system/emtag-gateway.service")
CONFIG, STATE, WORK = Path("/etc/emtag/gateway.toml"), Path("/var/lib/emtag"), Path("/run/check")
OVER_MQTT, OVER_SERIAL = 0x20000001, 0x20000002
WATCHDOG_S, STOP_S = 15, 8
"""Instead of the unit's 60 s and 30 s, so that a run stays short; the unit's own watchdog is looked at before."""
RESTART_S = 5
"""RestartSec= of the unit."""
PATIENCE_S = 60.0
TOML = """
registry = "/var/lib/emtag/devices.toml"
[gateway]
id = "gw-systemd"
state_directory = "/var/lib/emtag"
ready_file = "/run/emtag/ready"
log_level = "info"
restart_maximum_s = 1.0
[protection]
passphrase_file = "/run/emtag-key/passphrase"
[[serial]]
port = "/run/check/tty"
[mqtt]
host = "localhost"
port = 8883
ca_file = "/etc/emtag/authority.pem"
certificate_file = "/etc/emtag/gw-systemd.crt"
key_file = "/etc/emtag/gw-systemd.key"
[ble]
[http]
port = 9410
[uplink]
kind = "https"
[uplink.https]
url = "https://localhost:8443"
ca_file = "/etc/emtag/authority.pem"
token_file = "/etc/emtag/token"
poll_interval_s = 1.0
"""
BROKER = """
per_listener_settings true
user root
listener 1883 127.0.0.1
allow_anonymous true
listener 8883 127.0.0.1
cafile {0}/authority.pem
certfile {0}/localhost.crt
keyfile {0}/localhost.key
require_certificate true
use_identity_as_username true
"""
BACKEND = """
[backend]
database = "{0}/backend.sqlite"
[https]
port = 8443
certificate_file = "{0}/localhost.crt"
key_file = "{0}/localhost.key"
gateways = [{{id = "gw-systemd", token_file = "/etc/emtag/token"}}]
"""
PROBE = """
import ctypes, json, mmap, os, socket
LIBRARY = ctypes.CDLL(None, use_errno=True)
def called(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def suid():
    with open("/var/lib/emtag/.probe", "w"): pass
    os.chmod("/var/lib/emtag/.probe", 0o4755)
def removed():
    with open("/var/lib/emtag/.probe", "w") as file: file.write("x")
    os.unlink("/var/lib/emtag/.probe")
WRITE_AND_EXECUTE = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
TRIES = {
    "memory writable and executable": lambda: mmap.mmap(-1, 4096, prot=WRITE_AND_EXECUTE),
    "reads /home": lambda: open("/home/somebody/letter").read(),
    "writes outside its state": lambda: open("/srv/open/file", "w").write("x"),
    "sees other processes": lambda: open("/proc/1/cmdline").read(),
    "sees the kernel's state": lambda: open("/proc/meminfo").read(),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
    "sets the setuid bit": suid,
    "changes its scheduling": lambda: called(LIBRARY.setpriority(0, 0, 5)),
    "changes its personality": lambda: called(LIBRARY.personality(0x0040000)),
    "opens a user namespace": lambda: called(LIBRARY.unshare(0x10000000)),
    "writes its state": removed,
    "reads how far off the clock may be": lambda: called(LIBRARY.adjtimex(ctypes.create_string_buffer(256))),
}
found = {}
for what, attempt in TRIES.items():
    try:
        attempt()
        found[what] = None
    except OSError as error:
        found[what] = error.strerror
print(json.dumps(found))
"""
ALLOWED = {"writes its state", "reads how far off the clock may be"}

failures: list[str] = []


def fact(holds: object, what: str, detail: object = "") -> None:
    line = f"{'ok    ' if holds else 'FAILED'} {what}" + (f": {detail}" if detail != "" else "")
    print(line, flush=True)
    if not holds:
        failures.append(what)


def run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S * 2)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.returncode}: {done.stdout}{done.stderr}")
    return done


def shown(*properties: str, unit: str = SERVICE) -> dict[str, str]:
    lines = run("systemctl", "show", unit, *(f"--property={name}" for name in properties)).stdout.splitlines()
    return dict(line.split("=", 1) for line in lines)


def main_pid() -> int:
    return int(shown("MainPID")["MainPID"])


async def until(condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """What the condition says when it is true at last; TimeoutError."""
    async with asyncio.timeout(patience_s):
        while not (said := condition()):
            await asyncio.sleep(0.1)
        return said


def fetched(path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:9410{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def status() -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(fetched("/status")[1])
    return facts


def log_lines() -> list[dict[str, Any]]:
    text = run("journalctl", "--unit", SERVICE, "--output=json", "--no-pager").stdout
    return [json.loads(line) for line in text.splitlines()]


def prepare() -> None:
    """The world around: authority, broker, backend, the passphrase in memory, the configuration."""
    WORK.mkdir()
    authority = Authority(WORK, "authority")
    authority.issue("localhost")
    for path in (authority.file, *authority.issue("gw-systemd")):
        shutil.copy(path, CONFIG.parent)
    (CONFIG.parent / "token").write_text("a-token-of-some-length\n")
    CONFIG.write_text(TOML)
    for path in CONFIG.parent.iterdir():
        shutil.chown(path, "root", "emtag")
        path.chmod(0o640)
    secret = Path("/run/emtag-key/passphrase")
    secret.parent.mkdir(mode=0o755)
    secret.write_text("four words of nobody\n")
    shutil.chown(secret, "emtag", "emtag")
    secret.chmod(0o400)
    (WORK / "mosquitto.conf").write_text(BROKER.format(WORK))
    (WORK / "backend.toml").write_text(BACKEND.format(WORK))
    run("systemd-run", "--unit=check-broker", "mosquitto", "-c", str(WORK / "mosquitto.conf"))
    run("systemd-run", "--unit=check-backend", "emtag", "backend", "run", "--config", str(WORK / "backend.toml"))
    for folder, mode in (("/home/somebody", 0o755), ("/srv/open", 0o777)):
        Path(folder).mkdir(parents=True)
        Path(folder).chmod(mode)
    Path("/home/somebody/letter").write_text("dear reader")
    fact("\nWatchdogSec=60s\n" in UNIT.read_text(), "the unit as installed has a watchdog", "60 s, here 15 s")
    drop_in = Path(f"/run/systemd/system/{SERVICE}.service.d/short.conf")
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text(f"[Service]\nWatchdogSec={WATCHDOG_S}s\nTimeoutStopSec={STOP_S}s\n")


def add_device(device_id: int) -> Tag:
    """By the command, while the gateway runs; a device of the identity that it writes."""
    identity = WORK / f"{device_id}.json"
    run(
        "emtag", "gateway", "device", "add", hex(device_id), "--model", "ankle_gps", "--identity", str(identity),
        "--config", str(CONFIG),
    )  # fmt: skip
    key = json.loads(identity.read_text())["key"]
    return Tag(WORK / f"tag-{device_id}", device_id=device_id, key=bytes.fromhex(key))


async def delivered(tag: Tag, number: int) -> bool:
    """An alarm and a routine record: acknowledged as stored, in the backend, acknowledged as delivered."""
    tag.record(event_record(number), alarm=True)
    tag.record(status_record(number))
    await tag.until_delivered()
    mine = [identity for identity in identities(WORK / "backend.sqlite") if identity[0] == tag.device_id]
    return len(mine) == len(set(mine)) == 2 * number and tag.told == set(mine)


async def restarted(by: str, before: int) -> int:
    """Wait for another main process that is ready; its number."""
    await until(lambda: main_pid() not in (0, before) and shown("ActiveState")["ActiveState"] == "active")
    fact(fetched("/readyz")[0] == 200, f"ready again after {by}")
    return main_pid()


def confinement(pid: int) -> None:
    lines = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    outside = dict(line.split(":\t", 1) for line in Path("/proc/1/status").read_text().splitlines())
    wanted = {"NoNewPrivs": "1", "Seccomp": "2"} | {f"Cap{each}": "0" * 16 for each in ("Eff", "Prm", "Bnd", "Amb")}
    found = {name: lines[name].strip() for name in wanted}
    fact(found == wanted, "no privileges", " ".join(f"{name}={value}" for name, value in found.items()))
    filters = int(lines["Seccomp_filters"]) - int(outside["Seccomp_filters"])
    fact(filters > 0, "syscall filters of its own", filters)
    names = run("ps", "-o", "user=,group=", "-p", str(pid)).stdout.split()
    fact(names == ["emtag", "emtag"], "user and group", " ".join(names))
    found_modes = {
        str(path): (path.owner(), path.group(), oct(path.stat().st_mode & 0o7777))
        for path in (STATE, STATE / "store.sqlite", STATE / "keys.json", STATE / "devices.toml", Path("/run/emtag"))
    }
    wanted_modes = {str(STATE): "0o700", "/run/emtag": "0o750"}
    for path, facts in found_modes.items():
        fact(facts == ("emtag", "emtag", wanted_modes.get(path, "0o600")), f"owner and mode of {path}", " ".join(facts))
    text = run("systemd-analyze", "security", SERVICE, "--no-pager").stdout
    words = next(line for line in text.splitlines() if "Overall exposure level" in line).split()
    exposure = next(float(word) for word in words if word.replace(".", "").isdigit())
    fact(exposure <= 2.0, "systemd-analyze security, of the unit as loaded", exposure)


def probed(name: str, lines: list[str]) -> dict[str, str | None]:
    """What a program may do that runs by these lines of a [Service] section."""
    program, said = Path("/usr/local/lib/probe.py"), WORK / f"{name}.json"
    program.write_text(PROBE)
    lines = [*lines, "Type=oneshot", f"ExecStart=/usr/bin/python3 -I {program}", f"StandardOutput=file:{said}"]
    Path(f"/run/systemd/system/{name}.service").write_text("\n".join(["[Service]", *lines, ""]))
    run("systemctl", "daemon-reload")
    run("systemctl", "start", name)
    found: dict[str, str | None] = json.loads(said.read_text())
    return found


def boundaries() -> None:
    """The same attempts by the unit's lines, and by its user alone: what that may do shows what the unit denies."""
    taken = ("Exec", "Type", "NotifyAccess", "Restart", "Watchdog", "RuntimeDirectory", "Timeout")
    section = UNIT.read_text().split("[Service]\n")[1].split("[Install]")[0]
    own = [line for line in section.splitlines() if line[:1].isalpha() and not line.startswith(taken)]
    loose = probed("probe-loose", ["User=emtag", "Group=emtag"])
    bound = probed("probe-bound", own)
    for what, refusal in bound.items():
        if loose[what] is not None:
            print(f"       not shown here, denied in this machine anyway: {what}: {loose[what]}", flush=True)
        elif what in ALLOWED:
            fact(refusal is None, f"may: {what}", refusal or "")
        else:
            fact(refusal is not None, f"may not: {what}", refusal or "it may")


async def attack() -> None:
    prepare()
    port = Port()
    terminal = os.ttyname(port._slave)
    shutil.chown(terminal, "root", "dialout")
    Path(terminal).chmod(0o660)
    (WORK / "tty").symlink_to(terminal)
    await until(lambda: run("journalctl", "--unit=check-backend", "--output=cat").stdout)
    run("systemctl", "daemon-reload")
    run("systemctl", "enable", SERVICE)

    begun = time.monotonic()
    run("systemctl", "start", SERVICE)
    took_s = time.monotonic() - begun
    found = shown("ActiveState", "SubState", "Type", "StatusText", "MainPID", "NRestarts")
    pid = int(found["MainPID"])
    mains = [pid]
    good = found["ActiveState"] == "active" and found["NRestarts"] == "0" and found["StatusText"] == "0 devices"
    fact(good and found["Type"] == "notify", "started, and active by its own word", f"{found} after {took_s:.1f} s")
    checked = run("emtag", "gateway", "check", "--config", str(CONFIG), check=False)
    fact(checked.returncode == 0, "emtag gateway check", checked.stdout.strip())
    fact(json.loads(Path("/run/emtag/ready").read_text())["pid"] == pid, "the ready file names the process")
    fact(fetched("/readyz")[0] == 200 and fetched("/livez")[0] == 200, "/readyz and /livez", 200)
    fact("emtag_keys_at_rest_sealed 1.0" in fetched("/metrics")[1], "/metrics, keys at rest are sealed")

    tag, wired = add_device(OVER_MQTT), add_device(OVER_SERIAL)
    async with over_mqtt(tag, "localhost", 1883), over_serial(wired, port):
        fact(await delivered(tag, 1), "MQTT over TLS: stored, delivered over HTTPS, and acknowledged to the device")
        fact(await delivered(wired, 1), "serial: stored, delivered over HTTPS, and acknowledged to the device")
        facts = status()
        links = {link["name"]: link for link in facts["links"]}
        states = {name: link.get("up") for name, link in links.items()}
        ble = next(link for name, link in links.items() if "ble" in name.lower())
        others = [link["up"] for name, link in links.items() if "ble" not in name.lower()]
        fact(all(others) and not ble["up"] and ble["reason"], "no BLE adapter, and all else works", ble.get("reason"))
        print(f"       links up: {states}; clock uncertainty {facts['clockUncertaintyMs']} ms", flush=True)

        confinement(pid)
        boundaries()

        CONFIG.write_text(TOML.replace('log_level = "info"', 'log_level = "debug"'))
        done = run("systemctl", "reload", SERVICE, check=False)
        applied = status()["reload"]
        fact(done.returncode == 0 and applied["applied"] and main_pid() == pid, "reload", applied["changed"])
        CONFIG.write_text(TOML + "nonsense = 1\n")
        done = run("systemctl", "reload", SERVICE, check=False)
        active = shown("ActiveState", "SubState")
        fact(
            done.returncode and active == {"ActiveState": "active", "SubState": "running"} and main_pid() == pid,
            "a wrong configuration: reload fails, the gateway goes on",
            next((line["MESSAGE"] for line in log_lines() if "nonsense" in str(line["MESSAGE"])), "no reason told"),
        )
        CONFIG.write_text(TOML)

        begun = time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: shown("MainPID")["MainPID"] != str(pid), WATCHDOG_S + 10)
        took_s = time.monotonic() - begun
        said = [line["MESSAGE"] for line in log_lines() if "atchdog" in str(line.get("MESSAGE"))]
        fact(
            said and took_s <= WATCHDOG_S + 1, "stopped (SIGSTOP): ended by the watchdog", f"{took_s:.1f} s; {said[0]}"
        )
        pid = await restarted("the watchdog", pid)
        mains.append(pid)
        fact(await delivered(tag, 2) and await delivered(wired, 2), "both devices go on")

        os.kill(pid, signal.SIGKILL)
        pid = await restarted("SIGKILL", pid)
        mains.append(pid)
        fact(await delivered(tag, 3) and await delivered(wired, 3), "both devices go on")

        fact(not list(STATE.glob("store.sqlite.aside-*")), "neither of that has damaged the store")
        with contextlib.closing(sqlite3.connect(STATE / "store.sqlite")) as connection, connection:
            connection.execute("UPDATE records SET payload = x'00' WHERE row_id = (SELECT max(row_id) FROM records)")
        begun = time.monotonic()
        await until(lambda: (STATE / "store.sqlite.aside-1").exists() and fetched("/readyz")[0] == 200)
        took_s = time.monotonic() - begun
        active = shown("ActiveState", "SubState", "MainPID")
        good = active == {"ActiveState": "active", "SubState": "running", "MainPID": str(pid)}
        fact(good, "a store damaged while it runs is mended in the same process", f"{active} after {took_s:.1f} s")
        said = [line["MESSAGE"] for line in log_lines() if "the store was salvaged" in str(line["MESSAGE"])]
        fact(len(said) == 1, "and that is told", said)
        fact(await delivered(tag, 4) and await delivered(wired, 4), "both devices go on")
        await asyncio.sleep(max(0.0, begun + took_s + STOP_S + 1 - time.monotonic()))
        fact(main_pid() == pid, "and systemd does not kill it when TimeoutStopSec= is over")
        fact(shown("NRestarts")["NRestarts"] == "2", "restarted twice, and no more")

    def broker_link() -> dict[str, Any]:
        return next(link for link in status()["links"] if link["name"].startswith("mqtt"))

    run("systemctl", "restart", "check-broker")
    again = await until(lambda: (link := broker_link())["up"] and link["restarts"] and link["restarts"])
    fact("defect" not in again, "a broker that goes and comes is a link lost and up again", again)

    begun = time.monotonic()
    run("systemctl", "stop", SERVICE)
    took_s = time.monotonic() - begun
    found = shown("Result", "ExecMainStatus", "ExecMainCode", "ActiveState")
    wanted = {"Result": "success", "ExecMainStatus": "0", "ExecMainCode": "1", "ActiveState": "inactive"}
    fact(found == wanted and took_s < STOP_S, "stopped, with exit status 0", f"after {took_s:.1f} s")
    journal_is_structured(mains)


def journal_is_structured(mains: list[int]) -> None:
    own = [line for line in log_lines() if line.get("_PID") in map(str, mains)]
    levels: dict[str, str] = {}
    for line in own:
        text = str(line["MESSAGE"])
        if text.startswith("{") and "event" in (said := json.loads(text)):
            levels[said["level"]] = line["PRIORITY"]
    wanted = {"debug": "7", "info": "6", "warning": "4", "error": "3"}
    known = all(wanted[level] == priority for level, priority in levels.items())
    fact(known and {"info", "warning"} <= set(levels), "the journal has JSON lines with their priorities", levels)
    plain = [str(line["MESSAGE"]) for line in own if not str(line["MESSAGE"]).startswith("{")]
    fact(not plain, "and nothing else from the gateway", plain[:5] if plain else f"{len(own)} lines")
    defects = [line["MESSAGE"] for line in own if '"defect"' in str(line["MESSAGE"])]
    fact(not defects, "no defect in it", defects[0] if defects else "")
    denied = [line["MESSAGE"] for line in own if "not permitted" in str(line["MESSAGE"])]
    fact(not denied, "nothing that it tried was denied to it", denied[:3] if denied else "")


def main() -> int:
    try:
        asyncio.run(attack())
    except Exception as error:
        fact(False, "the run came to its end", repr(error))
    if failures:
        print(run("journalctl", "--unit", SERVICE, "--unit=check-*", "--no-pager", check=False).stdout, flush=True)
    print(f"{len(failures)} failed" if failures else "all hold", flush=True)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
