"""`emtag gateway update`: hand a signed image to a running gateway, for some of its devices, and follow it."""

import fcntl
import os
import secrets
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emgate import config as configuration
from emgate.down.kinds import RequestError, names
from emgate.down.updates import FINAL_PHASE, FOLDER, KIND, Image, check_image
from emgate.errors import ConfigError
from emgate.operation.control_client import ControlClient
from emgate.operation.owner import give_to_owner, write_whole

EXIT_OK, EXIT_FAILED, EXIT_REFUSED, EXIT_NOT_RUNNING = 0, 1, 2, 3
DAY_MS = 86_400_000
FOLLOW_S = 2.0


def update(
    config_path: Path, image_path: Path, manifest_path: Path, devices: list[int], days: int, wait_s: float
) -> int:
    """0: all devices were asked (with wait_s: all run it), 1: one does not, 2: cannot be done, 3: no gateway runs."""
    try:
        state = configuration.state_directory(config_path)
        image = check_image(image_path.stem, image_path.read_bytes(), manifest_path.read_bytes())
        with ControlClient(state) as gateway:
            # By the gateway's clock: it judges the expiry.
            expires_ms = gateway.ask(do="status")["status"]["timeMs"] + days * DAY_MS
            with _alone(state) as folder:
                name = _place(folder, image, state)
                asked = {device: _submit(gateway, device, name, expires_ms) for device in devices}
                _tidy(folder, gateway)
            return _follow(gateway, asked, wait_s) if wait_s else EXIT_OK
    except ConnectionError as error:
        print(f"emtag gateway update: no gateway answers ({error}): is it running?", file=sys.stderr)
        return EXIT_NOT_RUNNING
    except (ConfigError, RequestError, OSError, ValueError) as error:
        print(f"emtag gateway update: {error}", file=sys.stderr)
        return EXIT_REFUSED


@contextmanager
def _alone(state_directory: Path) -> Iterator[Path]:
    """The folder of images, while no other command puts there what nobody has asked for yet."""
    folder = state_directory / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    give_to_owner(folder, state_directory)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(descriptor)


def _place(folder: Path, image: Image, state_directory: Path) -> str:
    """Copy the files to where the gateway reads them, as its user; the update's name there."""
    models = {value: model.lower() for model, value in names("MODEL_").items()}
    number = image.manifest.device_model
    name = f"{models.get(number, number)}-{image.manifest.update_id}"
    for suffix, data in (("image", image.data), ("manifest", image.manifest.encode())):
        target = folder / f"{name}.{suffix}"
        if target.exists() and target.read_bytes() == data:
            give_to_owner(target, state_directory)
            continue
        if target.exists() and suffix == "image":
            raise RequestError(f"{target} is another image with this number: sign this one with a higher --update-id")
        write_whole(target, data, state_directory)
    return name


def _tidy(folder: Path, gateway: ControlClient) -> None:
    """Delete the images that no open request is about, and what an interrupted copy has left."""
    wanted = {request["body"].get("update") for request in gateway.ask(do="list", open=True)["requests"]}
    for path in folder.iterdir():
        if path.suffix == ".new" or (path.suffix in (".image", ".manifest") and path.stem not in wanted):
            path.unlink(missing_ok=True)


def _submit(gateway: ControlClient, device: int, name: str, expires_ms: int) -> str:
    request_id = f"{name}-{device:08x}-{secrets.token_hex(4)}"
    body = {"requestId": request_id, "deviceId": device, "kind": KIND, "update": name, "expiresMs": expires_ms}
    gateway.ask(do="submit", request=body)
    print(f"{device:#010x}: {request_id}", flush=True)
    return request_id


def _follow(gateway: ControlClient, asked: dict[int, str], wait_s: float) -> int:
    """Print every change, until each is final or the time is over."""
    said: dict[int, str] = {}
    end = time.monotonic() + wait_s
    waiting = dict(asked)
    failed = False
    while waiting and time.monotonic() < end:
        for device, request_id in list(waiting.items()):
            request = gateway.ask(do="show", requestId=request_id)["request"]
            line = _line(request)
            if said.get(device) != line:
                said[device] = line
                print(f"{device:#010x}: {line}", flush=True)
            if request["state"] not in ("queued", "sent"):
                del waiting[device]
                failed = failed or (request["result"] or {}).get("phase") != FINAL_PHASE
        time.sleep(FOLLOW_S if waiting else 0)
    return EXIT_FAILED if failed or waiting else EXIT_OK


def _line(request: dict[str, Any]) -> str:
    result = request["result"] or {}
    parts: Iterable[str] = (
        str(result.get("phase", request["state"])),
        "" if result.get("cause", "NONE") == "NONE" else f"because of {result['cause']}",
        f"chunk {result['firstMissingChunk']}" if result.get("phase") == "RECEIVING" else "",
    )
    return " ".join(part for part in parts if part)
