"""Configuration survives resets and torn writes, and is never half applied."""

import os

from common.settings import DEFAULTS, Settings

KEY = bytes(range(16))
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
