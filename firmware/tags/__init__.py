# One file per model: what the device does.
