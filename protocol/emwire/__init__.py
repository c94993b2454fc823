"""emwire: the wire of emtag, pure (no sockets, no clock, no files). MicroPython imports this file too."""
