"""emgate: the host side of emtag: links, sessions, store, uplinks, backend and the command."""
