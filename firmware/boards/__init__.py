# One folder per board: the hardware boundary.
