# What there is to know of the emulated Raspberry Pi Pico before it runs. It has no pins but those of UART 0, its line
# to the rig: what a model has on its pins is modelled there, as for the simulated board.
NAME = "pico_emulated"
TITLE = "Raspberry Pi Pico, emulated (RP2040)"
MODELS = ("ankle_gps", "home_unit", "alcohol", "pid")
MACHINE = "Raspberry Pi Pico with RP2040"
# The emulator puts it into the flash of a new board.
BASE_IMAGE = "uf2"
