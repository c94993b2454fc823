"""MicroPython's `esp32` as the board uses it: what wakes the chip out of light sleep, and its thermometer."""

import machine

WAKEUP_ALL_LOW, WAKEUP_ANY_HIGH = False, True
ext0 = None
ext1 = ()
gpio = ()
gpio_armed = []  # as the chip has it: nobody disarms a pin


def wake_on_ext0(pin, level):
    global ext0
    assert level == WAKEUP_ALL_LOW
    ext0 = pin


def wake_on_ext1(pins, level):
    global ext1
    assert level == WAKEUP_ANY_HIGH
    if pins is not None:
        ext1 = pins
    for pin in ext1:
        pin.taken = True


def wake_on_gpio(pins, level):
    global gpio
    assert level == WAKEUP_ALL_LOW
    if pins is not None:
        gpio = pins
    gpio_armed.extend([pin for pin in gpio if pin not in gpio_armed])
    for pin in gpio:
        # gpio_wakeup_enable makes a pin's edge interrupt one of level, which never ends.
        assert pin.handler is None


def wakes():
    if ext0 is not None and not ext0.value():
        return machine.EXT0_WAKE
    if any(pin.value() for pin in ext1):
        return machine.EXT1_WAKE
    if gpio and not all(pin.value() for pin in gpio_armed):
        return machine.GPIO_WAKE
    return None


machine.wakes = wakes


def mcu_temperature():
    return 31
