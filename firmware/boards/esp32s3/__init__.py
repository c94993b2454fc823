# LilyGO T-SIM7080G-S3: ESP32-S3 with a SIM7080G LTE-M modem and an AXP2101 power manager.
