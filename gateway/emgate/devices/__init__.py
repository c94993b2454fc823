"""The devices a gateway answers to: their registry, and one session per device."""
