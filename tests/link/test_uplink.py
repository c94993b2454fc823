"""The uplink task on real MicroPython, in virtual time: what it survives, when it connects, and that it sleeps."""

import itertools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
Play = Callable[[str], dict[str, Any]]


@pytest.fixture
def play(micropython: str, tmp_path: Path) -> Play:
    """Runs one scene of uplink_scene.py."""

    def run(scene: str) -> dict[str, Any]:
        done = subprocess.run(
            [micropython, str(Path(__file__).with_name("uplink_scene.py")), scene, str(tmp_path)],
            capture_output=True,
            text=True,
            env={"MICROPYPATH": f".frozen:{ROOT / 'protocol'}:{ROOT / 'firmware'}"},
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    return run


def times(result: dict[str, Any], what: str) -> list[int]:
    return [at_ms for name, at_ms in result["log"] if name == what]


def test_survives_failures_of_every_operation(play: Play) -> None:
    result = play("failures")
    assert not result["undelivered"]
    assert result["epochs"] == [[1, 110, 110]]
    assert result["failures"] >= 8
    assert result["open"]
    waits = [later - earlier for earlier, later in itertools.pairwise(times(result, "connect"))]
    assert all(0 < wait < 60_000 for wait in waits)
    # Alarms 100…109 came before backlog, in every connection, and each lane in order.
    first = {sequence: index for index, (_, _, sequence, _) in reversed(list(enumerate(result["records"])))}
    assert sorted(first) == list(range(110))
    assert [s for s in sorted(first, key=first.__getitem__) if s < 100] == list(range(100))
    assert max(first[sequence] for sequence in range(100, 108)) < first[0]


def test_sleeps_when_there_is_nothing_to_do(play: Play) -> None:
    result = play("quiet_day")
    assert result["open"] and not result["undelivered"]
    assert result["waits"] == 1


def test_reports_at_the_interval_and_alarms_at_once(play: Play) -> None:
    result = play("reports")
    assert not result["open"]
    connects = times(result, "connect")
    assert connects[0] == 0
    alarm_made = 32 * 60_000 + 30_000
    assert alarm_made in connects
    # Besides the alarm, twelve reports in the hour and no more.
    assert 12 <= len(connects) <= 14
    alarms = [record for record in result["records"] if record[3]]
    assert len(alarms) == 1 and alarms[0][0] - alarm_made < 3_000
    assert result["messages"] and all(message[0] == 0x81 for message in result["messages"])


def test_a_silent_connection_is_given_up_and_tried_again(play: Play) -> None:
    result = play("nobody")
    assert result["failures"] > 5
    assert not result["undelivered"]


def test_back_off_is_bounded_and_shorter_for_an_alarm(play: Play) -> None:
    result = play("no_gateway")
    (alarm,) = times(result, "alarm")
    before = [at_ms for at_ms in times(result, "connect") if at_ms < alarm]
    after = [at_ms for at_ms in times(result, "connect") if at_ms >= alarm]
    waits = [later - earlier for earlier, later in itertools.pairwise(before)]
    assert waits[0] < 10_000 and max(waits) <= 301_500
    # Not all the same: devices that lost the same cell spread.
    assert len(set(waits[-20:])) > 10
    assert after[0] - alarm <= 45_000
    assert max(later - earlier for earlier, later in itertools.pairwise(after)) <= 46_500
