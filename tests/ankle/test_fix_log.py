"""Positions on flash: nothing that was taken is lost or told twice, wherever the power goes."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tags import fix_log
from tags.fix_log import FRAME, FixLog

FIX = (500_000_000, 51_500_000, -120_000, 185, 90, 14, 9, 9, 1)
UNKNOWN = (500_000_060, -90_000_000, 180_000_000, -1, -1, -1, -1, -1, 5)
WIDEST = (0xFFFFFFFF, 90_000_000, -180_000_000, 65534, 359, 65534, 63, 65534, 255)


def _none(epoch: int, sequence: int) -> bool:
    return False


def test_every_field_comes_back(tmp_path: Path) -> None:
    log = FixLog(str(tmp_path), 1, _none)
    for fix in (FIX, UNKNOWN, WIDEST):
        log.append(fix)
    again = FixLog(str(tmp_path), 2, _none)
    assert again.fixes == [FIX, UNKNOWN, WIDEST] and again.recovered == 3 and again.damaged_bytes == 0


def test_a_torn_write_costs_the_position_under_way_only(tmp_path: Path) -> None:
    whole = [(FIX[0] + number, *FIX[1:]) for number in range(3)]
    for length in range(2 * FRAME, 3 * FRAME):
        log = FixLog(str(tmp_path), 1, _none)
        for fix in whole:
            log.append(fix)
        path = tmp_path / "fixes.log"
        path.write_bytes(path.read_bytes()[:length])
        again = FixLog(str(tmp_path), 2, _none)
        assert again.fixes == whole[:2]
        again.append(WIDEST)
        assert FixLog(str(tmp_path), 3, _none).fixes == [*whole[:2], WIDEST], "written over what was torn"
        path.unlink()


@given(st.integers(0, 3 * FRAME - 1), st.integers(1, 255))
def test_damage_costs_one_frame_and_is_counted(tmp_path_factory: object, at: int, flip: int) -> None:
    folder = tmp_path_factory.mktemp("log")  # type: ignore[attr-defined]
    log = FixLog(str(folder), 1, _none)
    whole = [(FIX[0] + number, *FIX[1:]) for number in range(3)]
    for fix in whole:
        log.append(fix)
    data = bytearray((folder / "fixes.log").read_bytes())
    data[at] ^= flip
    (folder / "fixes.log").write_bytes(data)
    again = FixLog(str(folder), 2, _none)
    assert again.fixes == whole[: at // FRAME] + whole[at // FRAME + 1 :] and again.damaged_bytes == FRAME


def test_a_flash_that_refuses_is_counted_and_loses_nothing_in_ram(tmp_path: Path, monkeypatch: object) -> None:
    log = FixLog(str(tmp_path), 1, _none)
    log.append(FIX)

    def full(file: object) -> None:
        raise OSError(28)

    monkeypatch.setattr(fix_log, "sync", full)  # type: ignore[attr-defined]
    log.append(UNKNOWN)
    assert log.fixes == [FIX, UNKNOWN] and log.write_failures == 1
    monkeypatch.undo()  # type: ignore[attr-defined]
    log.append(WIDEST)
    assert FixLog(str(tmp_path), 2, _none).fixes in ([FIX, WIDEST], [FIX, UNKNOWN, WIDEST])


def test_the_file_is_bounded(tmp_path: Path) -> None:
    log = FixLog(str(tmp_path), 1, _none)
    for _ in range(500):
        log.append(FIX)
    assert (tmp_path / "fixes.log").stat().st_size <= fix_log.MAXIMUM_BYTES
    assert len(log.fixes) == 500 and log.write_failures == 500 - fix_log.MAXIMUM_BYTES // FRAME


class Power(RuleBasedStateMachine):
    """The tag's own order of doing things, with the power gone between any two of them."""

    @initialize(folder=st.uuids())
    def begin(self, folder: object) -> None:
        import tempfile

        self.path = tempfile.mkdtemp()
        self.records: dict[tuple[int, int], list[tuple]] = {}
        self.taken: list[tuple] = []
        self.epoch = 0
        self.boot()

    def boot(self) -> None:
        self.epoch += 1
        self.sequence = 0
        self.log = FixLog(self.path, self.epoch, lambda epoch, sequence: (epoch, sequence) in self.records)

    @rule(count=st.integers(1, 5))
    def take(self, count: int) -> None:
        for _ in range(count):
            fix = (len(self.taken), *FIX[1:])
            self.log.append(fix)
            self.taken.append(fix)

    @precondition(lambda self: self.log.fixes)
    @rule(share=st.sampled_from([1, 2]), power_goes=st.integers(0, 3))
    def report(self, share: int, power_goes: int) -> None:
        count = max(1, len(self.log.fixes) // share)
        self.log.into_record(count, self.sequence)
        if power_goes == 1:
            return self.boot()
        self.records[self.epoch, self.sequence] = self.log.fixes[:count]
        self.sequence += 1
        if power_goes == 2:
            return self.boot()
        self.log.recorded(count, durable=True)
        if power_goes == 3:
            self.boot()
        return None

    @rule()
    def power_goes(self) -> None:
        self.boot()

    def teardown(self) -> None:
        told = [fix for key in sorted(self.records) for fix in self.records[key]] + self.log.fixes
        assert told == self.taken


TestPower = Power.TestCase
TestPower.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
