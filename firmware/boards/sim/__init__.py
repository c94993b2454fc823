# The simulated board: its peripherals are messages to the rig, its time is the rig's.
