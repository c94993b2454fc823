"""MQTT brokers: one to start, one's access list, and a client of one that is there."""
