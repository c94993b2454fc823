"""Images and manifests as the host makes them: the same bytes each time, complete in themselves, damage named."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from common import image as device_image
from emgate.cli import app
from emrig.images import commands as firmware_commands
from emrig.images import firmware_image
from emrig.images import signing as firmware_signing
from emrig.images.firmware_image import ImageError
from emwire import codec
from typer.testing import CliRunner
from update_kit import FIRMWARE, KEY, run, small_image, whole

if not any(group.name == "firmware" for group in app.registered_groups):
    app.add_typer(firmware_commands.firmware, name="firmware")
RIG_MODULES = Path(firmware_image.__file__).parent.parent / "micropython"


@pytest.mark.parametrize("model", firmware_image.MODELS)
@pytest.mark.parametrize("board", ["sim", "pico_w"])
def test_a_tree_needs_nothing_else(micropython: str, tmp_path: Path, model: str, board: str) -> None:
    """Every module of it is imported with nothing else on the path but what a board has frozen."""
    image = firmware_image.build(model, board, in_rom=False)
    folder = tmp_path / "a"
    for path, contents in image.tree.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(contents)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "selector.py").write_bytes((FIRMWARE / "selector.py").read_bytes())
    (tmp_path / "root" / "machine.py").write_text("class Pin:\n    pass\n")
    names = [path.rpartition(".")[0].replace("/", ".").removesuffix(".__init__") for path in image.tree]
    # The simulated board's modules need the rig.
    names = [name for name in names if not name.startswith("boards.") or board == "sim"]
    path = [folder, tmp_path / "root", RIG_MODULES, ".frozen"]
    done = subprocess.run(
        [micropython, "-X", "heapsize=4m", "-c", "\n".join(f"import {name}" for name in names)],
        env={"MICROPYPATH": ":".join(map(str, path))},
        cwd=tmp_path / "root",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(names) > 5


def test_the_same_sources_give_the_same_bytes() -> None:
    first = firmware_image.build("pid", "pico_w", (1, 2, 3), 4)
    firmware_image._cross_compile.cache_clear()
    again = firmware_image.build("pid", "pico_w", (1, 2, 3), 4)
    assert first.data == again.data
    assert str(FIRMWARE).encode() not in first.data, "a path of this machine is in the image"
    assert firmware_image.parse(first.data) == first
    assert firmware_image.build("pid", "pico_w", (1, 2, 4), 4).sha256 != first.sha256


def test_the_device_reads_what_the_host_writes(tmp_path: Path) -> None:
    image = small_image(3, security_version=9)
    path, folder = tmp_path / "x.image", tmp_path / "b"
    path.write_bytes(image.data)
    header = device_image.read_header(str(path))
    assert (header.version, header.security_version, header.board) == ((3, 0, 0), 9, "sim")
    run(device_image.unpack(str(path), str(folder), image.sha256, lambda size: None))
    assert whole(folder) == image.tree
    assert (folder / firmware_image.MARKER).read_bytes() == image.marker


def test_names_of_a_traceback_are_told() -> None:
    told = json.loads(call("names", "--model", "pid", "--board", "pico_w")[1])
    assert "tags.pid.run" in told["names"].values()
    assert all("." in name for name in told["attributes"]["_0"])


def test_an_installation_begins_as_an_update_ends() -> None:
    files = firmware_image.installation("home_unit", "pico_w")
    assert {"main.py", "selector.mpy", "a/main.mpy", "a/common/image.mpy"} < set(files)
    assert list(files)[-1] == "a/image.json"
    assert not [path for path in files if path.startswith("a/selector")]
    assert json.loads(files["a/image.json"])["version"] == ".".join(map(str, firmware_image.source_version()[0]))


@pytest.mark.parametrize("cut", [0, 3, 12, 40, 200, -1])
def test_a_damaged_image_is_named(cut: int) -> None:
    with pytest.raises(ImageError):
        firmware_image.parse(small_image(1).data[:cut])


def test_unknown_models_and_boards_name_the_known() -> None:
    with pytest.raises(ImageError, match="ankle_gps"):
        firmware_image.build("ankle", "sim")
    with pytest.raises(ImageError, match="pico_w"):
        firmware_image.build("pid", "pico")


def call(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["firmware", *map(str, arguments)])
    return done.exit_code, done.output


def test_from_key_to_manifest_by_command(tmp_path: Path) -> None:
    key, image, manifest = tmp_path / "key.pem", tmp_path / "pid.image", tmp_path / "pid.manifest"
    status, output = call("keygen", key)
    update_key = output.strip()
    assert (status, len(update_key), key.stat().st_mode & 0o777) == (0, 128, 0o600)
    assert call("keygen", key)[0] == firmware_commands.UNUSABLE, "a key was overwritten"
    public = key.with_name("key.pub.pem")
    for shown in (key, public):
        assert json.loads(call("show", shown)[1]) == {"updateKey": update_key}
    assert "PRIVATE" not in public.read_text()
    assert call("keygen", tmp_path / "key.x")[0] == firmware_commands.UNUSABLE, "its public half was overwritten"
    assert not (tmp_path / "key.x").exists()
    assert call("build", "--model", "pid", "--board", "sim", "--version", "1.2.3", "--out", image)[0] == 0
    assert json.loads(call("show", image)[1])["version"] == "1.2.3"
    signing = ("sign", image, "--key", key, "--update-id", 5, "--hardware", "1-4")
    assert call(*signing, "--install-from", "2027-01-01T00:00:00Z")[0] == 0
    decoded = codec.decode(manifest.read_bytes())
    assert isinstance(decoded, codec.UpdateManifest)
    assert (decoded.update_id, decoded.lowest_hardware_revision, decoded.highest_hardware_revision) == (5, 1, 4)
    assert decoded.install_from_s == 536_457_600
    assert call("show", manifest, "--public-key", update_key)[0] == 0
    other = firmware_signing.public_bytes(KEY).hex()
    assert call("show", manifest, "--public-key", other)[0] == firmware_commands.UNUSABLE


@pytest.mark.parametrize(
    "arguments",
    [
        ("build", "--model", "pid", "--board", "sim", "--version", "1.2", "--out", "x"),
        ("build", "--model", "pid", "--board", "sim", "--version", "1.2.256", "--out", "x"),
        ("build", "--model", "nobody", "--board", "sim", "--out", "x"),
        ("show", "no such file"),
        ("show", __file__),
        ("sign", __file__, "--key", __file__, "--update-id", "1"),
        ("sign", "x", "--key", "y", "--update-id", "1", "--hardware", "4-1"),
        ("sign", "x", "--key", "y", "--update-id", "1", "--install-from", "tomorrow"),
    ],
)
def test_what_cannot_be_ends_with_status_2(arguments: tuple[str, ...]) -> None:
    assert call(*arguments)[0] == 2
