"""An emulated Raspberry Pi Pico: real MicroPython for the RP2040, run instruction by instruction by rp2040py.

`chip` is the chip with its flash in a file, `machine` the process that runs it, `target` what tests and rig use.
"""
