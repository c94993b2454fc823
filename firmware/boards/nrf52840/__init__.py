# Nordic nRF52840 DK (PCA10056) under MicroPython's Zephyr port.
