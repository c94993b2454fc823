"""Requests that come down from one target's backend, and what is told back about them."""

import asyncio
from collections import Counter
from typing import Any

from emgate.down.kinds import RequestError
from emgate.down.requests import Requests

MOST_WAITING = 64
"""Taken from the target and not yet looked at; the backend gives again what is dropped here."""
MOST_REFUSALS = 64
STATES_IN_BATCH = 100


class AskedDown:
    """Between an uplink and the requests. `take` is the uplink's; `next_states` and `told` are the drain's."""

    def __init__(self, target: str, requests: Requests) -> None:
        self.counters: Counter[str] = Counter()
        self._target = target
        self._requests = requests
        self._waiting: list[object] = []
        self._refusals: dict[str, dict[str, Any]] = {}
        self._arrived = asyncio.Event()
        self.changed = asyncio.Event()  # something is to be told

    def take(self, asked: object) -> None:
        """A request as it came; bounded, and never raises."""
        self.counters["requests"] += 1
        if len(self._waiting) >= MOST_WAITING:
            self.counters["requests_dropped"] += 1
            return
        self._waiting.append(asked)
        self._arrived.set()

    async def run(self) -> None:
        """Hand what came to the requests, until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                await self._submit(self._waiting.pop(0))

    async def _submit(self, asked: object) -> None:
        if not isinstance(asked, dict):
            self.counters["requests_unreadable"] += 1
            return
        try:
            await self._requests.submit(self._target, asked)
        except RequestError as error:
            self.counters["requests_refused"] += 1
            request_id = asked.get("requestId")
            if isinstance(request_id, str) and len(self._refusals) < MOST_REFUSALS:
                refusal = {"requestId": request_id, "state": "refused", "result": {"reason": str(error)}}
                self._refusals[request_id] = {**refusal, "revision": 1}
                self.changed.set()

    async def next_states(self) -> list[dict[str, Any]]:
        """What is to be told; waits until there is something."""
        while True:
            self.changed.clear()
            states = list(self._refusals.values()) + self._requests.unreported(self._target, STATES_IN_BATCH)
            if states:
                return states
            await self.changed.wait()

    def told(self, states: list[dict[str, Any]]) -> None:
        """The backend has these."""
        for state in states:
            if self._refusals.get(state["requestId"]) is state:
                del self._refusals[state["requestId"]]
        self._requests.reported(self._target, [state for state in states if state["state"] != "refused"])
