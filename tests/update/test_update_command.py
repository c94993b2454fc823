"""`emtag gateway update` says what is wrong, and leaves a state directory as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from emgate import update_command
from emrig import firmware_signing
from update_kit import KEY, small_image

CONFIG = """
[gateway]
id = "house"
state_directory = "state"
[protection]
at_rest = "off"
[[serial]]
port = "tty"
[[devices]]
device_id = 1
model = "home_unit"
key = "00112233445566778899aabbccddeeff"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    (tmp_path / "gateway.toml").write_text(CONFIG)
    return tmp_path / "gateway.toml"


def call(config: Path, image: Any, update_id: int = 1) -> int:
    path = config.with_name("new.image")
    path.write_bytes(image.data)
    manifest = config.with_name("new.manifest")
    manifest.write_bytes(firmware_signing.sign(image, KEY, update_id))
    return update_command.update(config, path, manifest, [1], 30, 0.0)


def test_without_a_gateway(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(config, small_image(2)) == update_command.EXIT_NOT_RUNNING
    assert "is it running?" in capsys.readouterr().err


def test_a_number_is_of_one_image(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(config, small_image(2))
    kept = (config.parent / "state" / "updates" / "home_unit-1.image").read_bytes()
    assert call(config, small_image(3)) == update_command.EXIT_REFUSED
    assert "higher --update-id" in capsys.readouterr().err
    assert (config.parent / "state" / "updates" / "home_unit-1.image").read_bytes() == kept


def test_files_that_do_not_belong_together(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(config, small_image(2))
    config.with_name("new.image").write_bytes(small_image(3).data)
    paths = (config.with_name("new.image"), config.with_name("new.manifest"))
    assert update_command.update(config, *paths, [1], 30, 0.0) == update_command.EXIT_REFUSED
    assert "of another image" in capsys.readouterr().err
    assert (
        update_command.update(config, config.with_name("none"), paths[1], [1], 30, 0.0) == update_command.EXIT_REFUSED
    )
