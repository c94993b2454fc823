# Which firmware this is: told in hello, written into every image, and compared before an update.
# Major, minor, patch.
VERSION = (0, 1, 0)
# Raised by one when a release closes a hole: no device goes back below the one it runs (RFC 9019, 3).
SECURITY_VERSION = 1
