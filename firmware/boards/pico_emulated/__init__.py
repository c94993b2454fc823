# The emulated Raspberry Pi Pico: its processor and flash are real code's, its peripherals are messages to the rig.
