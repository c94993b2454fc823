"""Captured traffic read back: pcap files of MQTT sessions, raw bytes of serial lines, and opened messages written."""
