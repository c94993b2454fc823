"""What a device would draw from its battery, for what its firmware did in simulation; see docs/power.md."""
