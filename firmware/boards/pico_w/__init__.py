# Raspberry Pi Pico W: RP2040 with a CYW43439 for Bluetooth LE.
