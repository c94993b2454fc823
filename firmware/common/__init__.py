# What every model shares: journal, sealing, uplink, clock.
