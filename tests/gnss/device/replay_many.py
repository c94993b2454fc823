# micropython replay_many.py CORPUS: length-prefixed streams, each through the driver; prints fixes and counters.
import io
import struct
import sys

import replay_gnss

with open(sys.argv[1], "rb") as corpus:  # noqa: PTH123
    index = 0
    while True:
        header = corpus.read(4)
        if not header:
            break
        stream = corpus.read(struct.unpack("<I", header)[0])
        print(replay_gnss.summary(replay_gnss.replay(io.BytesIO(stream), 1 + index % 600, print)))
        index += 1
