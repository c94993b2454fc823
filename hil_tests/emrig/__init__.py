"""emrig: the rig. Runs the firmware on simulated targets and gives it a world to sense."""
