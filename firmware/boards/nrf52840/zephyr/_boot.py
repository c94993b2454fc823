# Frozen into the nRF52840's MicroPython in the place of the Zephyr port's own: the files are at the root, as on every
# other board. The port's has them at /flash, where no path of the firmware leads.
import vfs
import zephyr

# By emtag.overlay; (its number, bytes that are erased at once).
storage = zephyr.FlashArea(*zephyr.FlashArea.areas["storage"])
try:
    vfs.mount(storage, "/")
except OSError:
    # Never formatted.
    vfs.VfsLfs2.mkfs(storage)
    vfs.mount(storage, "/")
