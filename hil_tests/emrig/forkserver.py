"""A process of its own that imports the MicroPython module once and forks a child per device (0.3 MB each).

It stays single-threaded, so that forking is safe. The rig talks to it over a SOCK_SEQPACKET socket, one JSON request
a packet: {"start": arguments, "path": MICROPYPATH} with two descriptors (wire, log) -> {"pid": n}; {"kill": pid} ->
{"pid": n}.
"""

import array
import json
import os
import signal
import socket
import sys

import micropython_run


def _child(request: dict[str, object], wire: int, log: int) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(wire, 0)
    os.dup2(wire, 1)
    os.dup2(log, 2)
    os.closerange(3, 256)
    os.environ["MICROPYPATH"] = str(request["path"])
    arguments = request["start"]
    assert isinstance(arguments, list)
    os._exit(micropython_run.run_main(["micropython", *arguments]) & 0xFF)


def main() -> None:
    """Serve until the control socket closes, then kill what still runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the rig decides when devices end
    control = socket.socket(fileno=int(sys.argv[1]))
    children: set[int] = set()
    while True:
        message, ancillary, _, _ = control.recvmsg(65536, socket.CMSG_SPACE(8))
        if not message:
            break
        request = json.loads(message)
        if "kill" in request:
            pid = int(request["kill"])
            if pid in children:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                children.discard(pid)
        else:
            descriptors = array.array("i")
            descriptors.frombytes(ancillary[0][2][:8])
            pid = os.fork()
            if pid == 0:
                _child(request, *descriptors)
            children.add(pid)
            for descriptor in descriptors:
                os.close(descriptor)
        control.send(json.dumps({"pid": pid}).encode())
    for pid in children:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
