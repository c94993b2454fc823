"""Runs on MicroPython: a request a line on stdin (JSON), the answer a line on stdout.

`["encode", fixes, columns]` gives the block in hexadecimal, `["decode", hex]` the fixes; a WireError gives
`["error", reason, offset]`.
"""

import json
import sys

from emwire.errors import WireError
from emwire.positions import decode_block, encode_block

while True:
    line = sys.stdin.readline()
    if not line:
        break
    request = json.loads(line)
    try:
        if request[0] == "encode":
            answer = encode_block([tuple(fix) for fix in request[1]], request[2]).hex()
        else:
            answer = [list(fix) for fix in decode_block(bytes.fromhex(request[1]))]
    except WireError as error:
        answer = ["error", error.reason, error.offset]
    print(json.dumps(answer))
