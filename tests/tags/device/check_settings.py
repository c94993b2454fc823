"""Configuration survives resets and torn writes, and is never half applied."""

import os

from common.settings import TABLE, Settings
from emwire import constants

KEY = bytes(range(16))
DEFAULTS = {row[0]: row[1] for row in TABLE}
FIRST = (1, (120, 30, 60, 900, 600), ((7, KEY),))
SECOND = (2, (0, 45, 0, 0, 0), ())


def _in_force(settings):
    return settings.version, settings.report_interval_s, settings.fix_interval_s, settings.beacons


def check_defaults_and_overrides(folder):
    settings = Settings(folder, {"fix_interval_s": 15})
    assert settings.version == 0 and settings.fix_interval_s == 15
    assert settings.sample_interval_s == DEFAULTS["sample_interval_s"]


def check_kept_over_a_reset(folder):
    assert Settings(folder).apply(*FIRST)
    settings = Settings(folder)
    assert _in_force(settings) == (1, 120, 30, {7: KEY})
    assert settings.apply(*SECOND)
    assert _in_force(Settings(folder)) == (2, 120, 45, {7: KEY}), "0 keeps what was"


def check_only_newer_versions(folder):
    settings = Settings(folder)
    assert settings.apply(65535, (60, 60, 60, 60, 60), ())
    assert not settings.apply(65535, (99, 99, 99, 99, 99), ())
    assert not settings.apply(65000, (99, 99, 99, 99, 99), ())
    assert settings.apply(1, (99, 99, 99, 99, 99), ()), "newer after the wrap"


def check_mistaken_intervals_are_bounded(folder):
    settings = Settings(folder)
    settings.apply(1, (1, 1, 1, 1, 1), ())
    assert settings.fix_interval_s >= 5 and settings.sample_interval_s >= 60


def check_torn_at_every_byte(folder):
    settings = Settings(folder)
    settings.apply(*FIRST)
    before = set(os.listdir(folder))
    settings.apply(*SECOND)
    (newest,) = set(os.listdir(folder)) - before
    with open(folder + "/" + newest, "rb") as file:
        whole = file.read()
    for length in range(len(whole)):
        with open(folder + "/" + newest, "wb") as file:
            file.write(whole[:length])
        assert _in_force(Settings(folder)) == (1, 120, 30, {7: KEY}), length
    with open(folder + "/" + newest, "wb") as file:
        file.write(whole)
    assert _in_force(Settings(folder)) == (2, 120, 45, {7: KEY})
    with open(folder + "/" + newest, "wb") as file:
        file.write(whole[:20])
    assert Settings(folder).apply(3, (0, 50, 0, 0, 0), ())
    assert Settings(folder).version == 3


def check_table_and_catalogue_agree(folder):
    names = {name[10:].lower() for name in dir(constants) if name.startswith("PARAMETER_")}
    rows = [row[0] for row in TABLE]
    assert set(rows) == names and len(rows) == len(names)
    numbers = [getattr(constants, "PARAMETER_" + name.upper()) for name in rows]
    assert len(set(numbers)) == len(numbers)
    for name, default, lowest, highest in TABLE:
        assert lowest <= default <= highest and getattr(Settings(folder), name) == default, name


def check_parameters_all_or_none_and_kept(folder):
    settings = Settings(folder)
    window, address = constants.PARAMETER_PRESENCE_WINDOW_S, constants.PARAMETER_CURFEW_ADDRESS
    assert settings.apply_parameters(1, ((window, 600), (250, 1), (address, 9))) == bytes((250, address))
    assert settings.presence_window_s == 300 and settings.parameters_version == 0
    assert settings.apply_parameters(7, ((window, 600), (address, 2))) == b""
    again = Settings(folder)
    assert (again.presence_window_s, again.curfew_address, again.parameters_version) == (600, 2, 7)
    assert again.version == 0 and again.apply(1, (0, 0, 0, 0, 0), ()), "configuration counts for itself"
    assert Settings(folder).presence_window_s == 600
    assert settings.set("range_profile", 2) and not settings.set("range_profile", 4)
    assert Settings(folder).range_profile == 2


def check_parameters_that_contradict_each_other_are_refused(folder):
    settings = Settings(folder)
    coldest, warmest = constants.PARAMETER_SKIN_LOWEST_C, constants.PARAMETER_SKIN_HIGHEST_C
    long, middle = constants.PARAMETER_RANGE_LONG_DBM, constants.PARAMETER_RANGE_MIDDLE_DBM
    assert settings.apply_parameters(1, ((middle, -79),)) == bytes((middle,)), "above what is in force"
    assert settings.apply_parameters(1, ((coldest, 30), (warmest, 25))) == bytes((coldest, warmest))
    assert settings.apply_parameters(1, ((long, -90), (middle, -95))) == bytes((long, middle))
    assert settings.parameters_version == 0
    assert settings.apply_parameters(1, ((coldest, 30), (warmest, 45), (middle, -90))) == b""


def check_older_firmware_ignores_what_it_does_not_know(folder):
    settings = Settings(folder)
    settings._set = {"from_the_future": 5, "range_profile": 77, "presence_window_s": 900}
    settings._keep()
    again = Settings(folder)
    assert again.presence_window_s == 900 and again.range_profile == DEFAULTS["range_profile"]


async def check_parameters_over_the_air(folder):
    import asyncio

    from common.device import Device

    from at_work import AtWork

    work = AtWork(folder, "home_unit")
    made = Device(work.board, constants.MODEL_HOME_UNIT, 0)
    wait = constants.PARAMETER_WAN_LOST_S
    for version, value in ((3, 600), (2, 700), (3, 600), (4, 5), (65535, 800), (4, 900)):
        made._on_message((constants.MESSAGE_PARAMETERS, version, ((wait, value),)))
        await asyncio.sleep_ms(10)
    applied, refused = constants.EVENT_PARAMETERS_APPLIED, constants.EVENT_PARAMETERS_REFUSED
    told = [(event[0], event[3], bytes(event[4])) for event in work.events()]
    assert told == [(applied, 3, b""), (applied, 3, b""), (refused, 4, bytes((wait,))), (applied, 4, b"")], told
    assert made.settings.wan_lost_s == 900
    made._on_message((250, 1, 2))
    made._on_message((constants.MESSAGE_PARAMETERS,))
    assert made.unknown_messages == 1 and made.failed_messages == 1, "what fails here does not cost the link"
