"""The table of figures: complete, every figure with its source, and the same in the documentation."""

from pathlib import Path

import pytest
from emrig.flash.boards import definitions, pins_of
from emrig.power import table as tables
from emrig.power.run import DEFAULTS, check_board, of_model
from emrig.power.table import TableError
from emrig.scenario import SCENARIOS, ScenarioError, load

ROOT = Path(__file__).resolve().parents[2]


def test_every_real_board_has_all_figures() -> None:
    table = tables.load()
    boards = table.names("boards")
    assert set(boards) == {name for name in definitions() if name not in ("sim", "pico_emulated")}
    assert len({frozenset(table.names(f"boards.{board}")) for board in boards}) == 1
    assert len({frozenset(table.names(f"batteries.{name}")) for name in table.names("batteries")}) == 1
    for model, (board, battery) in DEFAULTS.items():
        check_board(model, board, table)
        assert battery in table.names("batteries")


def test_states_are_in_the_order_of_their_currents() -> None:
    table = tables.load()
    for board in table.names("boards"):
        figures = [table[f"boards.{board}.{state}_ma"] for state in ("sleep", "idle", "running")]
        assert figures == sorted(figures), board
    for part, states in (
        ("receiver", ("off", "asleep", "tracking", "acquiring")),
        ("modem", ("off", "asleep", "sleep", "idle", "connected", "transmit")),
    ):
        figures = [table[f"{part}.{state}_ma"] for state in states]
        assert figures == sorted(figures), part


def test_the_documentation_has_this_very_table() -> None:
    assert tables.markdown(tables.load()) in (ROOT / "docs" / "power.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("board", ["nrf52840", "esp32s3"])
def test_the_pin_tables_name_the_contacts_resistors(board: str) -> None:
    pins = pins_of(board)
    page = (
        (ROOT / "docs" / "flashing.md")
        .read_text(encoding="utf-8")
        .partition(f"\n## {board}\n")[2]
        .partition("\n## ")[0]
    )
    assert not pins["PIN_IN"]["strap"][1] and not pins["PIN_IN"]["case"][1]
    resistor = f"{pins['CONTACT_KOHM'] / 1000:g} Mohm"
    for contact in ("strap to ground", "case switch to ground"):
        assert f"{contact}, {resistor} to " in page


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[a]\nb = 3", "a.b"),
        ('[a]\nb_ma = { value = 1, source = " " }', "a.b_ma"),
        ("[a]\nb_ma = { value = 1 }", "a.b_ma"),
        ('[a]\nb_ma = { value = -1, source = "x" }', "a.b_ma"),
        ('[a]\nb_ma = { value = "1", source = "x" }', "a.b_ma"),
        ('[a]\nb_ma = { value = true, source = "x" }', "a.b_ma"),
        ('[a]\nb_ma = { value = 1, source = "x", sauce = "y" }', "a.b_ma"),
        ("[a", "cannot read"),
    ],
)
def test_a_bad_table_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "figures.toml"
    path.write_text(text)
    with pytest.raises(TableError, match=named):
        tables.load(path)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(TableError, match=r"boards\.esp8266\.sleep_ma"):
        tables.load()["boards.esp8266.sleep_ma"]


def test_a_board_that_cannot_run_the_model_is_refused_with_those_that_can() -> None:
    with pytest.raises(ScenarioError, match="give --board esp32s3"):
        check_board("ankle_gps", "pico_w", tables.load())
    with pytest.raises(ScenarioError, match=r"home_unit.*esp8266"):
        check_board("home_unit", "esp8266", tables.load())


def test_a_model_that_the_scenario_lacks_is_named() -> None:
    commuter = load(SCENARIOS / "commuter.toml")
    with pytest.raises(ScenarioError, match="it has ankle_gps"):
        of_model(commuter, "pid")
    home = of_model(load(SCENARIOS / "day.toml"), "home_unit")
    assert [device.model for device in home.devices] == ["home_unit", "pid"]
