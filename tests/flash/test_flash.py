"""`emtag flash` over a real MicroPython: what it installs, keeps, refuses, and how it survives a cut."""

import errno
import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import typer
from common.keys import Keys
from emgate.commands import device_commands
from emgate.devices.registry import read_device_file
from emgate.keys import key_source, secret_place
from emgate.keys.sealing import Ccm as HostCcm
from emgate.keys.vault import open_vault
from emgate.operation import owner
from emgate.operation.owner import write_whole
from emrig.flash import base_image, command, repl
from emrig.flash import install as flash_install
from emrig.flash.boards import BoardDefinition, definition
from emrig.flash.errors import FlashError
from emrig.flash.given import Given
from emrig.flash.identity import Identity
from emrig.flash.install import Wish, install
from emrig.flash.rack import read as read_rack
from emrig.flash.registration import Registration
from emrig.images import firmware_image
from emrig.images.commands import firmware
from emwire import codec, envelope
from emwire.errors import WireError
from emwire.gateway_link import GatewayLink
from flash_kit import PROMPT_S, PretendBoard, impatient
from typer.testing import CliRunner


@pytest.fixture(autouse=True)
def asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said to a board amid its reset is lost, and here nothing says when it is back."""
    monkeypatch.setattr(repl, "PROMPT_S", PROMPT_S)


@pytest.fixture
def board(micropython: str, tmp_path: Path) -> Iterator[PretendBoard]:
    with PretendBoard(micropython, tmp_path / "flash") as pretend:
        yield pretend


@pytest.fixture
def wish(board: PretendBoard, tmp_path: Path) -> Wish:
    # The unix port says that it is one; the rest is the Pico W's.
    return Wish(_here("pico_w"), "pid", board.port, device_id=7, backups=tmp_path / "saved")


def _here(name: str) -> BoardDefinition:
    return replace(definition(name), machine="linux")


def _installed(flash: Path) -> dict[str, str]:
    return {
        f"/{path.relative_to(flash)}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in flash.rglob("*")
        if path.is_file() and "data" not in path.relative_to(flash).parts
    }


def _tree(flash: Path) -> dict[str, bytes]:
    return {str(path.relative_to(flash)): path.read_bytes() for path in flash.rglob("*") if path.is_file()}


def test_installs_what_the_image_holds_and_says_so(board: PretendBoard, wish: Wish, tmp_path: Path) -> None:
    registry = tmp_path / "devices.toml"
    with Registration(registry) as registration:
        record = install(replace(wish, registration=registration))
    expected = firmware_image.installation("pid", "pico_w")
    assert _installed(board.flash) == {f"/{path}": hashlib.sha256(data).hexdigest() for path, data in expected.items()}
    assert record.files == _installed(board.flash)
    identity = json.loads((board.flash / "data" / "identity.json").read_text())
    assert [(who.device_id, who.key.hex()) for who in read_device_file(registry)] == [(7, identity["key"])]
    assert (identity["device_id"], identity["model"], identity["board"]) == (7, "pid", "pico_w")
    assert record.self_test["passed"], record.self_test
    assert (record.identity, record.serial) == ("new", "010203")
    assert identity["key"] not in json.dumps(asdict(record))


def test_a_second_time_keeps_identity_and_records_and_writes_nothing(board: PretendBoard, wish: Wish) -> None:
    install(wish)
    journal = board.flash / "data" / "journal"
    journal.write_bytes(b"unsent")
    identity = (board.flash / "data" / "identity.json").read_bytes()
    times = {path: path.stat().st_mtime_ns for path in (board.flash / "a").rglob("*.mpy")}
    (board.flash / "b").mkdir()
    (board.flash / "b" / "image.json").write_text("{}")
    record = install(replace(wish, device_id=None))
    assert (record.identity, record.device_id) == ("kept", 7)
    assert (board.flash / "data" / "identity.json").read_bytes() == identity
    assert journal.read_bytes() == b"unsent"
    assert {path: path.stat().st_mtime_ns for path in (board.flash / "a").rglob("*.mpy")} == times
    assert not (board.flash / "b" / "image.json").exists(), "the selector would have preferred a later update"


def test_a_kept_identity_takes_another_broker_update_key_and_strap(board: PretendBoard, wish: Wish) -> None:
    install(replace(wish, mqtt=("old.example", 1883)))
    before = json.loads((board.flash / "data" / "identity.json").read_text())
    record = install(replace(wish, device_id=None, mqtt=("new.example", 8883), update_key=bytes(range(64)), fibre=True))
    after = json.loads((board.flash / "data" / "identity.json").read_text())
    assert record.identity == "kept"
    reach = {"mqtt": {"host": "new.example", "port": 8883}, "update_key": bytes(range(64)).hex(), "fibre": True}
    assert after == before | reach


def test_a_new_ankle_tag_has_to_know_its_broker(board: PretendBoard, wish: Wish) -> None:
    with pytest.raises(FlashError, match="give --broker HOST"):
        install(replace(wish, board=_here("esp32s3"), model="ankle_gps"))
    assert not (board.flash / "data").exists()


def test_a_new_identity_saves_what_the_old_one_left(board: PretendBoard, wish: Wish) -> None:
    install(wish)
    (board.flash / "data" / "journal").write_bytes(b"unsent")
    with pytest.raises(FlashError, match=r"already pid 00000007.*--new-identity"):
        install(replace(wish, device_id=8))
    record = install(replace(wish, device_id=8, new_identity=True))
    assert record.backup is not None
    assert (Path(record.backup) / "journal").read_bytes() == b"unsent"
    assert json.loads((Path(record.backup) / "identity.json").read_text())["device_id"] == 7
    assert not (board.flash / "data" / "journal").exists()


def test_another_image_leaves_a_board_what_it_had(
    board: PretendBoard, wish: Wish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(wish)
    journal = board.flash / "data" / "journal" / "0"
    journal.parent.mkdir()
    journal.write_bytes(b"unsent")
    before = _tree(board.flash / "data")
    image = tmp_path / "image.uf2"
    image.write_bytes(b"UF2\n")

    def formatted(*its: Any) -> None:
        """As MicroPython does with a file system that is not where it looks for one."""
        for path in [path for path in board.flash.rglob("*") if path.is_file()]:
            path.unlink()
        (board.flash / "data" / "journal").rmdir()
        (board.flash / "data").rmdir()
        raise FlashError("it did not come back")

    again = replace(wish, device_id=None, base_image=image)
    monkeypatch.setattr(base_image, "put", formatted)
    with pytest.raises(FlashError, match=r"it did not come back; what was on the board is in .*, and goes back"):
        install(again)
    assert not _tree(board.flash)
    record = install(replace(again, base_image=None))
    assert (record.identity, record.device_id, record.backup) == ("kept", 7, None)
    assert _tree(board.flash / "data") == before
    # Nor is anything left on the host where the file system outlives the image.
    monkeypatch.setattr(base_image, "put", lambda *_: None)
    install(again)
    assert _tree(board.flash / "data") == before
    assert not list(wish.backups.iterdir())


def test_a_board_whose_data_nobody_can_save_gets_no_image_unasked(
    board: PretendBoard, wish: Wish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "image.uf2"
    image.write_bytes(b"UF2\n")

    def put(*its: Any) -> None:
        raise FlashError("the image went on")

    monkeypatch.setattr(base_image, "put", put)
    silent = replace(wish, port="/dev/absent", base_image=image)
    with pytest.raises(FlashError, match=r"may wipe it.*add --new-identity"):
        install(silent)
    with pytest.raises(FlashError, match="the image went on"):
        install(replace(silent, new_identity=True))
    with pytest.raises(FlashError, match=r"not a Raspberry Pi Pico W.*nothing was changed"):
        install(replace(wish, board=definition("pico_w"), base_image=image))


def test_another_board_is_refused_untouched(board: PretendBoard, wish: Wish) -> None:
    (board.flash / "main.py").write_text("print('theirs')\n")
    with pytest.raises(FlashError, match=r"is a linux.*not a Raspberry Pi Pico W.*nothing was changed"):
        install(replace(wish, board=definition("pico_w")))
    assert _installed(board.flash).keys() == {"/main.py"}


def test_a_model_without_its_hardware_is_refused(wish: Wish) -> None:
    with pytest.raises(FlashError, match="no hardware for ankle_gps: it can be home_unit, pid"):
        install(replace(wish, model="ankle_gps"))


@pytest.mark.parametrize(
    ("name", "model", "needs"), [("pico_w", "home_unit", 183_000), ("esp32s3", "ankle_gps", 220_000)]
)
def test_a_heap_too_small_for_the_model_is_refused_untouched(
    micropython: str, tmp_path: Path, wish: Wish, name: str, model: str, needs: int
) -> None:
    with PretendBoard(micropython, tmp_path / "small", heap="160k") as small:
        with pytest.raises(FlashError, match=rf"heap of \d+ B, and {model} needs {needs}.*with a ROM part"):
            install(replace(wish, board=_here(name), port=small.port, model=model))
        assert not _installed(small.flash)


def test_a_port_that_is_not_there_is_named(wish: Wish) -> None:
    with pytest.raises(FlashError, match="/dev/absent: there is no such port"):
        install(replace(wish, port="/dev/absent"))


def test_a_worn_flash_is_noticed(board: PretendBoard, wish: Wish, monkeypatch: pytest.MonkeyPatch) -> None:
    write = repl.Repl.write

    def one_bit_flips(self: repl.Repl, path: str, data: bytes) -> None:
        write(self, path, bytes([data[0] ^ 1]) + data[1:] if path.endswith("common/image.mpy") else data)

    monkeypatch.setattr(repl.Repl, "write", one_bit_flips)
    facts = repl.Repl.facts
    monkeypatch.setattr(repl.Repl, "facts", lambda board: facts(board) | {"serial": ""})
    with pytest.raises(FlashError, match=r"reads back wrong 3 times.*give it --device-id 7 again"):
        install(replace(wish, model="home_unit"))
    assert not (board.flash / "main.py").exists()


@pytest.mark.parametrize("share", [0.15, 0.45, 0.8, 0.98])
def test_a_cut_anywhere_leaves_a_board_that_can_be_flashed(
    micropython: str, tmp_path: Path, wish: Wish, board: PretendBoard, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    install(wish)
    cut = int(board.received * share) + random.Random(share).randrange(100)
    whole = {f"/{path}" for path in firmware_image.installation("pid", "pico_w")}
    with PretendBoard(micropython, tmp_path / "other") as other:
        attempt = replace(wish, port=other.port)
        other.cut_after = cut
        with impatient(monkeypatch), pytest.raises(FlashError):
            install(attempt)
        if (other.flash / "main.py").exists():
            assert _installed(other.flash).keys() >= whole, f"half a firmware starts after {cut} bytes"
        install(replace(attempt, device_id=None, new_identity=not (other.flash / "data/identity.json").exists()))
        assert _installed(other.flash).keys() == whole


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"has no \[\[boards\]\]"),
        ("[[boards]]\nboard = 'pico_w'\nmodel = 'pid'\n", "entry 1: no port"),
        ("[[boards]]\nboard = 'pico_w'\nmodel = 'pid'\nport = 'x'\nspeed = 1\n", "unknown speed"),
        (
            "[[boards]]\nboard='a'\nmodel='b'\nport='x'\n[[boards]]\nboard='a'\nmodel='b'\nport='x'\n",
            "port x is listed twice",
        ),
        (
            "[[boards]]\nboard='a'\nmodel='b'\nport='x'\ndevice_id=7\n"
            "[[boards]]\nboard='a'\nmodel='b'\nport='y'\ndevice_id=7\n",
            "device_id 7 is listed twice",
        ),
        ("[[boards", "not valid TOML"),
        ("boards = []\n", r"no list of \[\[boards\]\] entries"),
        ("boards = [1]\n", r"no list of \[\[boards\]\] entries"),
        ("[[boards]]\nboard='a'\nmodel='b'\nport='x'\ndevice_id='7'\n", "entry 1: device_id is '7'; write a number"),
        ("[[boards]]\nboard='a'\nmodel='b'\nport=3\n", "entry 1: port is 3; write text in quotes"),
    ],
)
def test_a_wrong_rack_is_told_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    rack = tmp_path / "rack.toml"
    rack.write_text(text)
    with pytest.raises(FlashError, match=said):
        read_rack(rack)


@pytest.fixture
def update_key(tmp_path: Path) -> str:
    """The public bytes of update-key.pem, made by command."""
    done = CliRunner().invoke(firmware, ["keygen", str(tmp_path / "update-key.pem")])
    assert done.exit_code == 0, done.output
    return done.stdout.strip()


def test_the_update_key_is_whatever_its_making_left(tmp_path: Path, update_key: str) -> None:
    for source in (update_key, tmp_path / "update-key.pem", tmp_path / "update-key.pub.pem"):
        assert command._public_key(str(source)) == bytes.fromhex(update_key)
    (tmp_path / "text").write_text("no key")
    for source in ("00" * 64, update_key[:-2], tmp_path / "text"):
        with pytest.raises(FlashError, match=r"--update-key: .*emtag firmware keygen"):
            command._public_key(str(source))


def test_where_no_record_can_be_kept_no_board_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "var").write_text("no folder")
    app = typer.Typer()
    app.command()(command.flash)
    done = CliRunner().invoke(app, ["--board", "pico_w", "--model", "pid", "--port", "/dev/absent"])
    assert (done.exit_code, "cannot keep records there" in done.stderr) == (2, True)


@pytest.mark.parametrize("text", ["", "h:", ":1883", "h:0", "h:99999", "h:²", " host", "h:1883 ", "ho st", "mqtt://h"])
def test_what_cannot_be_a_broker_is_refused(text: str) -> None:
    with pytest.raises(FlashError, match="is no broker"):
        command._broker(text)
    assert [command._broker(good) for good in ("h", "h:65535")] == [("h", 1883), ("h", 65535)]


def test_the_command_registers_a_new_device_and_keeps_a_record(
    board: PretendBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update_key: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "definition", _here)
    registry = tmp_path / "devices.toml"
    arguments = ["--board", "pico_w", "--model", "pid", "--port", board.port, "--registry", str(registry), "--json"]
    arguments += ["--update-key", "update-key.pub.pem"]
    app = typer.Typer()
    app.command()(command.flash)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout.splitlines()[-1])
    (device,) = read_device_file(registry)
    assert (device.device_id, device.model) == (record["device_id"], "pid")
    assert registry.stat().st_mode & 0o777 == 0o600
    identity = json.loads((board.flash / "data" / "identity.json").read_text())
    assert (identity["key"], identity["update_key"]) == (device.key.hex(), update_key)
    (kept,) = (tmp_path / "var" / "flash").glob("*.json")
    assert json.loads(kept.read_text()) == record
    (tmp_path / "fresh").mkdir()
    monkeypatch.chdir(tmp_path / "fresh")
    done = CliRunner().invoke(app, [*arguments[:-1], "../update-key.pub.pem"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["identity"] == "kept"
    assert len(list((tmp_path / "fresh" / "var" / "flash").glob("*.json"))) == 1
    monkeypatch.chdir(tmp_path)
    (board.flash / "data" / "journal").write_bytes(b"unsent")
    before = _tree(board.flash)
    for taken in (device.device_id, 0):
        again = CliRunner().invoke(app, [*arguments, "--new-identity", "--device-id", str(taken)])
        assert again.exit_code == 2
        assert ("already: give another --device-id" if taken else "does not fit the wire") in again.stdout
        assert _tree(board.flash) == before, "it said that nothing was written"


def test_a_device_whose_board_was_cut_off_after_its_registration_is_flashed_by_the_same_command(
    board: PretendBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "definition", _here)
    registry = tmp_path / "devices.toml"
    app = typer.Typer()
    app.command()(command.flash)
    arguments = ["--board", "pico_w", "--model", "pid", "--port", board.port, "--registry", str(registry)]
    stop = flash_install._stop

    def cut(*its: Any) -> None:
        (registered,) = read_device_file(registry)
        with Registration(registry) as other, pytest.raises(FlashError, match="another board is getting device id"):
            other.add(Identity(registered.device_id, "pid", bytes(16)), "another")
        board.cut_after = board.received
        stop(*its)

    monkeypatch.setattr(flash_install, "_stop", cut)
    with impatient(monkeypatch):
        assert CliRunner().invoke(app, arguments).exit_code == 2
    (given_up,) = read_device_file(registry)
    board.cut_after = None
    monkeypatch.setattr(flash_install, "_stop", stop)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "each read back by SHA-256, together" in " ".join(done.output.split())
    (device,) = read_device_file(registry)
    assert device.device_id == given_up.device_id
    assert device.key.hex() == json.loads((board.flash / "data" / "identity.json").read_text())["key"]
    assert device.key != given_up.key, "whatever became of the board that was given up"
    # Now it is a device like any other.
    again = CliRunner().invoke(app, [*arguments, "--new-identity", "--device-id", str(device.device_id)])
    assert again.exit_code == 2
    assert list(read_device_file(registry)) == [device]


def test_only_the_id_of_a_board_that_was_given_up_is_taken(tmp_path: Path) -> None:
    registry, other = tmp_path / "devices.toml", tmp_path / "other.toml"

    @contextmanager
    def attempt(device_id: int, serial: str, file: Path = registry, model: str = "pid") -> Iterator[Registration]:
        with Registration(file) as registration:
            registration.add(Identity(device_id, model, bytes([len(serial)] * 16)), serial)
            yield registration

    def left(serial: str, file: Path = registry, model: str = "pid") -> int | None:
        with Registration(file) as asking:
            return asking.given_up(model, serial)

    with attempt(7, "01"):
        assert left("01") is None, "it is under way"
        with pytest.raises(FlashError, match="right now"), attempt(7, "02"):
            pass
    assert (left("01"), left("02"), left(""), left("01", other), left("01", model="alcohol")) == (7, *[None] * 4)
    with pytest.raises(FlashError, match="has device 7 already"), attempt(7, "01", model="alcohol"):
        pass
    with Registration(registry) as kept:
        kept.keep(7)
        with pytest.raises(FlashError, match="right now"), attempt(7, "0203"):
            pass
    with attempt(7, "0203") as replacing:
        replacing.finish()
    assert [device.key[0] for device in read_device_file(registry)] == [4]
    # Done: neither this board's next attempt nor one that another registry has under way gets it.
    with attempt(7, "0203", other), pytest.raises(FlashError, match="has device 7 already"), attempt(7, "0203"):
        pass
    assert [path.name for path in tmp_path.glob(".*unfinished*")] == [".other.toml.unfinished-00000007"]


def test_a_listed_device_is_flashed_and_believed(
    board: PretendBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From `device add` of a gateway with a secret to a frame that it opens; and again when that key was lost."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "definition", _here)
    monkeypatch.setenv(key_source.PASSPHRASE, "correct horse battery")
    config, identity = tmp_path / "gateway.toml", tmp_path / "tag.json"
    config.write_text(
        'registry = "state/devices.toml"\n[gateway]\nid = "gw"\nstate_directory = "state"\n'
        '[[serial]]\nport = "/dev/null"\n[uplink]\nguarded_disk = true\n'
    )
    (tmp_path / "state").mkdir()

    def add(**named: Any) -> int:
        return device_commands.add(config, "7", "pid", None, identity, **named)

    def believed(slot: int = 0) -> bool:
        """What the firmware seals, as the gateway's end of the link takes it."""
        vault = open_vault(tmp_path / "state")
        assert vault is not None
        (device,) = read_device_file(tmp_path / "state" / "devices.toml", vault.open_key)
        data = board.flash / "data"
        keys = Keys(str(data), json.loads((data / "identity.json").read_text()), HostCcm)
        control = envelope.control_byte(envelope.UP, envelope.LINK, False, keys.slot)
        frame = envelope.seal(keys, 7, control, 1, 0, codec.Poll().encode())
        try:
            return GatewayLink(7, HostCcm(device.key)).received(frame).epoch == 1
        except WireError:
            return False

    assert add() == 2, "beside what is sealed on this disk"
    assert "in plain digits" in capsys.readouterr().err and not identity.exists()
    monkeypatch.setattr(secret_place, "one_disk", lambda *_: False)
    assert add() == 0
    with Registration(tmp_path / "state" / "devices.toml") as sealed, pytest.raises(FlashError, match="device add 8"):
        sealed.add(Identity(8, "pid", bytes(16)), "01")
    app = typer.Typer()
    app.command()(command.flash)
    arguments = ["--board", "pico_w", "--port", board.port, "--identity", str(identity)]
    with closing(Given(identity)) as held:
        done = CliRunner().invoke(app, arguments)
        assert (done.exit_code, "right now" in done.output) == (2, True)
        held.add(held.identity, "another board")
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, "serial number another board may have this" in " ".join(done.output.split())) == (
        2,
        True,
    ), done.output
    assert not (board.flash / "data").exists()
    identity.unlink()
    assert add() == 2 and "--replace lists it anew" in capsys.readouterr().err
    assert add(replace=True) == 0
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert not identity.exists(), "it goes to one board"
    assert believed()
    # The key was changed over the air since, and is lost: the board stays who it is, with what it has not sent.
    (board.flash / "data" / "journal").write_bytes(b"unsent")
    data = board.flash / "data"
    Keys(str(data), json.loads((data / "identity.json").read_text()), HostCcm).update(1, bytes(16))
    assert add(replace=True) == 0
    assert not believed()
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert believed() and (board.flash / "data" / "journal").read_bytes() == b"unsent"


def test_a_rack_is_flashed_at_once_and_one_bad_board_does_not_stop_the_others(
    micropython: str, board: PretendBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "definition", _here)
    with PretendBoard(micropython, tmp_path / "other") as other:
        rack = tmp_path / "rack.toml"
        rack.write_text(
            "".join(
                f"[[boards]]\nboard = 'pico_w'\nmodel = 'pid'\nport = '{port}'\ndevice_id = {number}\n"
                for number, port in enumerate([board.port, "/dev/absent", other.port], 1)
            )
        )
        app = typer.Typer()
        app.command()(command.flash)
        arguments = ["--all", str(rack), "--registry", str(tmp_path / "devices.toml"), "--json"]

        def full(path: Path, *its: Any) -> None:
            if path.name.startswith("00000001-"):
                raise OSError(errno.ENOSPC, "No space left on device")
            write_whole(path, *its)

        monkeypatch.setattr(owner, "write_whole", full)
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        said = {line["port"]: line for line in map(json.loads, done.stdout.splitlines())}
        assert done.exit_code == 2, done.output
        assert "no such port" in said["/dev/absent"]["error"]
        assert [path.name[:8] for path in Path("var/flash").glob("*.json")] == ["00000003"]
        assert f"{board.port}: it is flashed, but its record could not be kept" in " ".join(done.stderr.split())
        for each, number in ((board, 1), (other, 3)):
            assert said[each.port]["self_test"]["passed"]
            assert json.loads((each.flash / "data" / "identity.json").read_text())["device_id"] == number
    assert [device.device_id for device in read_device_file(tmp_path / "devices.toml")] in ([1, 3], [3, 1])
