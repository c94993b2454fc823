"""What `emtag gateway command|parameters|order|requests` and their twins of the backend do; the options are in
request_options.py."""

import json
import re
import secrets
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from emgate import config as configuration
from emgate.down.kinds import RequestError
from emgate.errors import ConfigError, StoreError
from emgate.operation.control_client import ANSWER_S, LONGEST_WAIT_S, ControlClient

EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, EXIT_NOT_RUNNING, EXIT_NO_ANSWER = 0, 1, 2, 3, 4
GOOD_OUTCOMES = ("DONE", "APPLIED")
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
LOOK_S = 0.3


def seconds(text: str) -> float:
    """ "60s", "5m", "1h", "2d" or a plain number of seconds; RequestError otherwise."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if found is None:
        raise RequestError(f"{text!r} is no duration: write for example 60s, 5m, 1h or 2d")
    return float(found[1]) * UNITS[found[2]]


def device_number(text: str) -> int:
    """A device's number, decimal or 0x and hexadecimal digits; RequestError otherwise."""
    try:
        number = int(text, 0)
    except ValueError:
        number = 0
    if not 1 <= number <= 0xFFFF_FFFF:
        raise RequestError(f"{text!r} is no device: write its number, decimal or as 0x and hexadecimal digits")
    return number


def parameters_of(pairs: list[str]) -> dict[str, int]:
    """["FIX_INTERVAL_S=30"] as a mapping; RequestError otherwise."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        try:
            found[name.strip()] = int(value)
        except ValueError:
            raise RequestError(f"{pair!r}: write NAME=NUMBER, for example FIX_INTERVAL_S=30") from None
        if not equals:
            raise RequestError(f"{pair!r}: write NAME=NUMBER, for example FIX_INTERVAL_S=30")
    return found


def make(device: str, body: dict[str, Any], expires: str | None, request_id: str | None, now_ms: int) -> dict[str, Any]:
    """A request as daemon and backend take it."""
    request = {"requestId": request_id or secrets.token_hex(8), "deviceId": device_number(device), **body}
    if expires is not None:
        request["expiresMs"] = now_ms + int(seconds(expires) * 1000)
    return request


def guarded(work: Callable[[], int]) -> int:
    """Run a command: what is wrong is said in words."""
    try:
        return work()
    except (RequestError, ConfigError, StoreError) as error:
        print(f"emtag: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        print("emtag: not waited for; the request goes on", file=sys.stderr)
        return EXIT_NO_ANSWER


# -- a running gateway ----------------------------------------------------------------------------------------


def submit_to_gateway(
    config_path: Path, device: str, body: dict[str, Any], wait: str | None, expires: str | None,
    request_id: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Hand a request to the daemon, and wait for its end if asked to."""

    def work() -> int:
        state = configuration.state_directory(config_path)
        wait_s = 0.0 if wait is None else seconds(wait)
        if wait_s > LONGEST_WAIT_S:
            raise RequestError(
                f"--wait {wait} is too long: a gateway is asked for {LONGEST_WAIT_S / 3600:.0f}h at most; ask without,"
                " and find out later by the same --id, or by `emtag gateway requests`"
            )
        request = make(device, body, expires, request_id, 0)
        last: dict[str, Any] = {}
        try:
            with ControlClient(state, wait_s + ANSWER_S) as gateway:
                if expires is not None:  # by the gateway's clock: it judges the expiry
                    request["expiresMs"] += gateway.ask(do="status")["status"]["timeMs"]
                for answer in gateway.answers(do="submit", request=request, waitS=wait_s):
                    known, last = last.get("revision"), answer["request"]
                    if last["revision"] != known and not as_json:
                        _say(last)
        except ConnectionRefusedError:
            return _not_running(config_path)
        except TimeoutError as error:
            raise RequestError(str(error)) from None
        except ConnectionError as error:  # what it said until then stands
            if not last:
                raise RequestError(f"{error}; the same --id finds out what became of it") from None
        if as_json:
            print(json.dumps(last))
        return _status_of(last, wait is not None)

    return guarded(work)


def list_of_gateway(config_path: Path, device: str | None, as_json: bool) -> int:
    """The newest requests that the daemon knows."""

    def work() -> int:
        state = configuration.state_directory(config_path)
        number = None if device is None else device_number(device)
        try:
            with ControlClient(state) as gateway:
                rows = gateway.ask(do="list", deviceId=number)["requests"]
        except ConnectionRefusedError:
            return _not_running(config_path)
        except OSError as error:
            raise RequestError(str(error)) from None
        _list(rows, as_json)
        return EXIT_DONE

    return guarded(work)


def _not_running(config_path: Path) -> int:
    print(f"emtag gateway: no gateway of {config_path} is running: start it first", file=sys.stderr)
    return EXIT_NOT_RUNNING


# -- a backend's database -------------------------------------------------------------------------------------


def submit_to_backend(
    database: Path, device: str, body: dict[str, Any], wait: str | None, expires: str | None,
    request_id: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Put a request into the backend's database, and wait for its end if asked to."""
    from emgate.backend import requests
    from emgate.backend.database import transaction

    def work() -> int:
        now_ms = time.time_ns() // 1_000_000
        wait_s = 0.0 if wait is None else seconds(wait)
        request = make(device, body, expires, request_id, now_ms)
        with closing(_open(database)) as connection:
            with transaction(connection):
                requests.prepare(connection)
                facts = requests.submit(connection, now_ms, request)
            end = time.monotonic() + wait_s
            shown = None
            while True:
                if facts["state"] != shown and not as_json:
                    shown = facts["state"]
                    _say(facts)
                if facts["state"] not in requests.OPEN or time.monotonic() >= end:
                    break
                time.sleep(LOOK_S)
                facts = requests.find(connection, facts["requestId"]) or facts
        if as_json:
            print(json.dumps(facts))
        return _status_of(facts, wait is not None)

    return guarded(work)


def list_of_backend(database: Path, device: str | None, as_json: bool) -> int:
    """The newest requests that the backend knows."""
    from emgate.backend import requests
    from emgate.backend.database import transaction

    def work() -> int:
        with closing(_open(database)) as connection:
            with transaction(connection):
                requests.prepare(connection)
            _list(requests.listed(connection, None if device is None else device_number(device)), as_json)
        return EXIT_DONE

    return guarded(work)


def load_orders(database: Path, file: Path) -> int:
    """Make wearers, activations and orders those of a file."""
    from emgate.backend.ingest import Backend
    from emgate.clock import SystemClock

    def work() -> int:
        _open(database).close()
        with closing(Backend(database, SystemClock())) as backend:
            changed = backend.load_orders(file)
        print(f"{changed} persons changed")
        return EXIT_DONE

    return guarded(work)


def _open(database: Path) -> sqlite3.Connection:
    from emgate.backend.database import connect

    if not database.exists():
        raise StoreError(f"{database}: there is no such database: name the one of `emtag backend run`")
    return connect(database)


# -- words ----------------------------------------------------------------------------------------------------


def _say(facts: dict[str, Any]) -> None:
    result = facts["result"] or {}
    words = [facts["requestId"], facts["state"]]
    words += [f"{key}={value}" for key, value in result.items() if value not in ("", None)]
    print(" ".join(words), flush=True)


def _list(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        body = " ".join(f"{key}={value}" for key, value in row["body"].items())
        outcome = (row["result"] or {}).get("outcome", "")
        print(f"{row['requestId']}  {row['deviceId']}  {row['kind']}  {row['state']}  {outcome}  {body}")


def _status_of(facts: dict[str, Any], waited: bool) -> int:
    if facts["state"] == "answered":
        return EXIT_DONE if (facts["result"] or {}).get("outcome") in GOOD_OUTCOMES else EXIT_FAILED
    if facts["state"] in ("expired", "replaced", "refused"):
        return EXIT_FAILED
    return EXIT_NO_ANSWER if waited else EXIT_DONE
