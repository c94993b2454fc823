"""Installs the gateway as documented in a machine of its own, boots a real systemd there, and attacks the unit.

`make systemd`; as root, with systemd-nspawn, on Debian 12 or later; about two minutes. Above this machine's root lies a
file system in memory: nothing is written here, and nothing stays. What it shows: docs/operations.md, "The unit under a
real systemd". The checks themselves: real_systemd_inside.py.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
INSIDE = Path(__file__).with_name("real_systemd_inside.py")
INSTALL = """
set -e
there() { for each; do command -v "$each" >/dev/null || return 1; done; }
wanted() { apt-get install -y -q pipx sqlite3 mosquitto dbus; }
there pipx sqlite3 mosquitto dbus-daemon || wanted || { apt-get update -q; wanted; }
PIPX_HOME=/opt/emtag PIPX_BIN_DIR=/usr/local/bin pipx install "emtag[gateway] @ file://$(echo /root/emtag-*.whl)"
emtag gateway install-unit
systemd-sysusers && systemd-tmpfiles --create
"""
TARGET = """
[Unit]
Requires=basic.target dbus.socket check.service
"""
CHECK = """
[Unit]
After=basic.target dbus.socket
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
ExecStart={python} {inside}
StandardOutput=file:/results/lines
StandardError=file:/results/errors
"""
BOOT_S = 240
"""Twice what a run takes."""


def mounted(stack: list[Path], kind: str, options: str, source: str | Path, place: Path) -> Path:
    place.mkdir(exist_ok=True)
    how = ["--bind"] if kind == "bind" else ["-t", kind, "-o", options]
    subprocess.run(["mount", *how, str(source), str(place)], check=True)
    stack.append(place)
    return place


def environment() -> list[str]:
    """Where pip finds packages."""
    names = [name for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy")]
    return [f"--setenv={name}={os.environ[name]}" for name in (*names, *({"SSL_CERT_FILE"} & set(os.environ)))]


def nspawn(root: Path, *arguments: str, log: Path) -> int:
    base = ["systemd-nspawn", "--quiet", f"--directory={root}", "--register=no", "--keep-unit", "--link-journal=no"]
    base.append("--system-call-filter=adjtimex clock_adjtime")  # or nspawn would refuse what the unit has to allow
    with log.open("ab") as output:
        return subprocess.run(
            [*base, *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=BOOT_S
        ).returncode


def check(folder: Path, stack: list[Path]) -> int:
    below = mounted(stack, "bind", "", "/", folder / "below")
    memory = mounted(stack, "tmpfs", "mode=0755", "tmpfs", folder / "memory")
    for name in ("upper", "work"):
        (memory / name).mkdir()
    layers = f"lowerdir={below},upperdir={memory}/upper,workdir={memory}/work"
    root = mounted(stack, "overlay", layers, "overlay", folder / "root")
    results, log = folder / "results", folder / "log"
    results.mkdir()
    wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*wheel, str(CHECKOUT)], check=True)
    for path in folder.glob("*.whl"):
        shutil.copy(path, root / "root")

    begun = time.monotonic()
    if nspawn(root, *environment(), "bash", "-c", INSTALL, log=log):
        print(log.read_text(errors="replace")[-4000:], file=sys.stderr)
        return 1
    print(f"ok     installed by pipx, as documented: after {time.monotonic() - begun:.0f} s", flush=True)
    units = root / "etc/systemd/system"
    (units / "check.target").write_text(TARGET)
    (units / "check.service").write_text(CHECK.format(python=sys.executable, inside=INSIDE))
    binds = [f"--bind={results}:/results", f"--bind-ro={CHECKOUT}"]
    begun = time.monotonic()
    nspawn(root, "--private-network", *binds, "--boot", "systemd.unit=check.target", log=log)
    lines = (results / "lines").read_text() if (results / "lines").exists() else ""
    print(lines, end="")
    print(f"the machine ran for {time.monotonic() - begun:.0f} s", flush=True)
    if lines.endswith("all hold\n"):
        return 0
    if not lines:
        for path in (results / "errors", log):
            print(path.read_text(errors="replace")[-4000:] if path.exists() else "", file=sys.stderr)
    return 1


def main() -> int:
    if os.geteuid() != 0 or shutil.which("systemd-nspawn") is None:
        print("needs root and systemd-nspawn (on Debian: apt install systemd-container)", file=sys.stderr)
        return 2
    folder, stack = Path(tempfile.mkdtemp(prefix="emtag-systemd-")), []
    try:
        return check(folder, stack)
    finally:
        for place in reversed(stack):
            subprocess.run(["umount", str(place)], check=False)
        if not any(place.is_mount() for place in stack):  # else it would go into what is mounted there
            shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
