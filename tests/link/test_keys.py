"""The device's key over power cuts, rot and provisioning; the real file on CPython and on MicroPython."""

import subprocess
from pathlib import Path

from common.keys import Keys
from emgate.keys.sealing import Ccm

ROOT = Path(__file__).resolve().parents[2]
OLD, NEW = bytes(range(16)), bytes(range(50, 66))
NONCE, TEXT = bytes(13), b"text"


def load(path: Path, provisioned: bytes = OLD) -> Keys:
    return Keys(str(path), {"key": provisioned.hex()}, Ccm)


def uses(keys: Keys, key: bytes, slot: int) -> bool:
    return keys.slot == slot and keys.seal(NONCE, TEXT, b"head") == Ccm(key).seal(NONCE, TEXT, b"head")


def test_a_new_key_outlives_a_restart_and_the_rot_of_either_slot(tmp_path: Path) -> None:
    keys = load(tmp_path)
    assert uses(keys, OLD, 0)
    assert keys.update(1, NEW) and uses(keys, NEW, 1)
    for name in ("key.0", "key.1"):
        (tmp_path / name).write_bytes(b"rotten")
        assert uses(load(tmp_path), NEW, 1), "and written anew from the other"


def test_what_is_no_other_key_changes_nothing(tmp_path: Path) -> None:
    keys = load(tmp_path)
    for slot, key in ((0, NEW), (4, NEW), (1, NEW[:15])):
        assert not keys.update(slot, key)
    assert uses(keys, OLD, 0) and list(tmp_path.iterdir()) == []


def test_power_may_fail_at_every_byte_of_either_write(tmp_path: Path) -> None:
    keys = load(tmp_path)
    assert keys.update(1, NEW)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    third = bytes(range(200, 216))
    assert keys.update(2, third)
    after = {path: path.read_bytes() for path in tmp_path.iterdir()}
    first, second = tmp_path / "key.1", tmp_path / "key.0"
    for size in range(len(after[first]) + 1):
        first.write_bytes(after[first][:size])
        second.write_bytes(before[second])
        complete = size == len(after[first])
        assert uses(load(tmp_path), third if complete else NEW, 2 if complete else 1), size
        first.write_bytes(after[first])
        second.write_bytes(after[second][:size])
        assert uses(load(tmp_path), third, 2), size


def test_flash_that_refuses_leaves_the_old_key(tmp_path: Path) -> None:
    keys = load(tmp_path / "nowhere")
    assert not keys.update(1, NEW)
    assert uses(keys, OLD, 0) and keys.write_failures == 1


def test_provisioning_anew_forgets_a_change(tmp_path: Path) -> None:
    assert load(tmp_path).update(3, NEW)
    third = bytes(range(200, 216))
    assert uses(load(tmp_path, third), third, 0)


def test_the_same_on_micropython(tmp_path: Path, micropython: str) -> None:
    program = f"""
from common.keys import Keys
identity = {{"key": "{OLD.hex()}"}}
keys = Keys({str(tmp_path)!r}, identity)
assert keys.slot == 0 and keys.update(1, bytes.fromhex("{NEW.hex()}"))
again = Keys({str(tmp_path)!r}, identity)
assert again.slot == 1
print(again.seal(bytes(13), b"text", b"head").hex())
"""
    path = f"{ROOT / 'protocol'}:{ROOT / 'firmware'}"
    done = subprocess.run(
        [micropython, "-c", program], capture_output=True, text=True, env={"MICROPYPATH": path}, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == Ccm(NEW).seal(NONCE, TEXT, b"head").hex()
    assert uses(load(tmp_path), NEW, 1)
