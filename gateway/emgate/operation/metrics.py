"""Prometheus metrics, made from what status.json says, so that both can never disagree."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric

from emgate.links.listening import NAMES

CONTENT_TYPE = CONTENT_TYPE_LATEST
NOT_COUNTED = {
    "name", "up", "reason", "restarts", "target", "required", "compressedTo", "databaseBytes", "bytes_left_hour",
    "bytes_left_day",
}  # fmt: skip
"""What a link's or uplink's facts hold beside counters."""
STORE_GAUGES = {
    "records", "routine_waiting", "alarms_waiting", "oldestUndeliveredMs", "bytes", "diskFreeBytes", "commitSeconds",
}  # fmt: skip
"""What the store's facts hold beside counters."""

# Counters that alarms are set on (operations.md) are there from the start: increase() of a series that appears with its
# first count is 0.
FROM_START = {
    "emtag_clock_steps": ("forward", "back"),
    "emtag_store": ("store_full", "given_up", "commit_failed"),
    "emtag_frames_refused": ("authentication",),
}
DEAF = tuple(name for name in NAMES.values() if name.startswith("deaf_"))


def render(facts: Mapping[str, Any]) -> bytes:
    """The exposition of one status."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Facts(facts))
    return generate_latest(registry)


class _Facts:
    """A collector of prometheus_client over one status."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        """All families."""
        facts = self._facts
        yield from _process(facts)
        yield from _store(facts)
        yield from _ways("link", facts["links"])
        yield from _ways("uplink", [{**each, "name": each["target"]} for each in facts["uplink"]])
        yield _counters("emtag_sessions", "What sessions counted since the start", "counter", facts["sessions"])
        yield _counters("emtag_frames_refused", "Frames that were not believed", "reason", facts["refused"])
        requests = {**facts["requests"], **_numbers(facts["updates"], {"underWay"})}
        yield _gauge("emtag_requests_open", "Requests to devices that are not answered yet", requests.pop("open"))
        yield _counters("emtag_requests", "Requests to devices, and updates", "counter", requests)
        yield _counters("emtag_control", "The control socket", "counter", facts["control"])
        yield _counters("emtag_own_records", "The gateway's own records", "counter", facts["ownRecords"])
        devices = facts["devices"]
        yield _gauge("emtag_devices", "Devices in the registry", len(devices))
        heard = [device["lastReceivedMs"] for device in devices if device["lastReceivedMs"] is not None]
        yield _gauge("emtag_devices_heard", "Devices that a record was received from, ever", len(heard))
        yield _gauge("emtag_gaps", "Gap records stored of all devices", sum(device["gaps"] for device in devices))
        lost = sum(device["lostRecords"] for device in devices)
        yield _gauge("emtag_lost_records", "Records that gap records call lost, of all devices", lost)


def _process(facts: Mapping[str, Any]) -> Iterator[Metric]:
    yield _gauge("emtag_ready", "1 once every link and uplink was up or failed once", facts["ready"])
    yield _gauge("emtag_running_seconds", "Since the start", facts["runningS"])
    yield _gauge("emtag_resident_bytes", "Memory of the process", facts["residentBytes"])
    yield CounterMetricFamily("emtag_written_bytes", "Brought to disks by the process", value=facts["writtenBytes"])
    yield _gauge("emtag_time_seconds", "The gateway's clock, unix seconds", facts["timeMs"] / 1000)
    yield _gauge(
        "emtag_clock_uncertainty_seconds", "Its error bound; 65.535: unknown", facts["clockUncertaintyMs"] / 1e3
    )
    steps = {name: count for name, count in facts["clockSteps"].items() if name != "lastMs"}
    yield _counters("emtag_clock_steps", "Steps of the gateway's clock", "direction", steps)
    reload = facts["reload"]
    yield _counters(
        "emtag_reloads", "Configurations read anew", "result",
        {"applied": reload["count"] - reload["refused"], "refused": reload["refused"]},
    )  # fmt: skip
    yield _gauge(
        "emtag_keys_at_rest_sealed", "1: registry keys and payloads are sealed", facts["keysAtRest"] is not None
    )


def _store(facts: Mapping[str, Any]) -> Iterator[Metric]:
    store = facts["store"]
    yield _gauge("emtag_store_records", "Rows in the store", store["records"])
    waiting = GaugeMetricFamily("emtag_store_waiting", "Records not delivered yet", labels=["lane"])
    waiting.add_metric(["routine"], store["routine_waiting"])
    waiting.add_metric(["alarm"], store["alarms_waiting"])
    yield waiting
    oldest = store["oldestUndeliveredMs"]
    age_s = 0.0 if oldest is None else max(0.0, (facts["timeMs"] - oldest) / 1000)
    yield _gauge("emtag_store_oldest_undelivered_seconds", "Age of the oldest undelivered record; 0: none", age_s)
    yield _gauge("emtag_store_bytes", "Database and log on disk", store["bytes"])
    yield _gauge("emtag_disk_free_bytes", "Room on the store's disk", store["diskFreeBytes"])
    commits = store["commitSeconds"]
    yield HistogramMetricFamily(
        "emtag_store_commit_seconds",
        "Duration of commits",
        buckets=[(str(bound), count) for bound, count in commits["buckets"]],
        sum_value=commits["sum"],
    )
    yield _counters("emtag_store", "What the store counted since the start", "counter", _numbers(store, STORE_GAUGES))


def _ways(kind: str, ways: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    """Links or uplinks: up, restarts by reason, and everything else they count."""
    up = GaugeMetricFamily(f"emtag_{kind}_up", f"1: the {kind} is up", labels=[kind])
    restarts = CounterMetricFamily(f"emtag_{kind}_restarts", f"Restarts of the {kind}", labels=[kind, "reason"])
    listened = CounterMetricFamily(f"emtag_{kind}_listened_seconds", "Time the radio listened", labels=[kind])
    deaf = CounterMetricFamily(f"emtag_{kind}_deaf_seconds", "Time it did not, by cause", labels=[kind, "cause"])
    counted = CounterMetricFamily(f"emtag_{kind}", f"What the {kind} counted since the start", labels=[kind, "counter"])
    database = GaugeMetricFamily("emtag_uplink_database_bytes", "Of a backend in this process", labels=["uplink"])
    for way in ways:
        if way.get("databaseBytes") is not None:
            database.add_metric([way["name"]], way["databaseBytes"])
        up.add_metric([way["name"]], way["up"])
        for reason, count in way["restarts"].items():
            restarts.add_metric([way["name"], reason], count)
        numbers = _numbers(way, NOT_COUNTED)
        if kind == "link" and way["name"].startswith("ble:"):  # the links that keep a ledger
            numbers = dict.fromkeys(DEAF, 0) | numbers
        for name, count in numbers.items():
            if name == "listened_ms":
                listened.add_metric([way["name"]], count / 1000)
            elif name.startswith("deaf_") and name.endswith("_ms"):
                deaf.add_metric([way["name"], name[len("deaf_") : -len("_ms")]], count / 1000)
            else:
                counted.add_metric([way["name"], name], count)
    yield from (family for family in (up, restarts, listened, deaf, database, counted) if family.samples)


def _numbers(facts: Mapping[str, Any], without: set[str]) -> dict[str, float]:
    return {name: value for name, value in facts.items() if name not in without and isinstance(value, int | float)}


def _gauge(name: str, text: str, value: float | None) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=float("nan") if value is None else float(value))


def _counters(name: str, text: str, label: str, counts: Mapping[str, float]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, count in (dict.fromkeys(FROM_START.get(name, ()), 0) | dict(counts)).items():
        family.add_metric([key], count)
    return family
