"""Every metric: its name, help text and labels, in this one file.

Label values come from configuration or from closed lists, never from a payload, but for one that is bounded. Numerators and
denominators, never ratios.
"""

from __future__ import annotations

from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.process_collector import ProcessCollector

from gateway.acts import Act
from gateway.kinds import FACTS, Kind, Lane

disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client ships this function without annotations

Outcome = Literal["applied", "unchanged", "refused"]
"""How the wish for another configuration may end."""

CommandOutcome = Literal["executed", "failed", "expired", "refused", "repeated"]
"""How the wish for a command may end: an expired one was late and dropped, a refused one never began."""
LogInOutcome = Literal["ok", "refused", "limited"]

FAST_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
DELIVERY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0, 3600.0)

COVERAGE_POINTS = {
    "required": "required", "installed": "installed", "working": "working", "networked": "networked",
    "must_network": "must_network", "waived": "waived", "degraded": "degraded", "unsupervised": "unsupervised",
    "overdue": "overdue", "physical": "physical", "physical_ok": "physical_ok",
}  # fmt: skip
"""States under which points are shown, and the count that each is."""
COVERAGE_SITES = {
    "required": "units", "installed": "units_installed", "target": "target_units",
    "target_installed": "target_units_installed",
}  # fmt: skip
BATTERY_DAYS = (7, 30, 90)
"""To change on this round, on the next one, to order for."""


class Metrics:
    """One set per gateway object, so that tests run side by side."""

    def __init__(self) -> None:  # noqa: PLR0915  # a list of metrics, not a story
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"fangkong_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"fangkong_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"fangkong_{name}", text, labels, buckets=buckets, registry=registry)

        self.build_info = gauge("build_info", "Always 1; the version and box name as labels.", "version", "box")
        # configuration, named as Prometheus names its own
        self.config_info = gauge("config_info", "Always 1; the SHA-256 of the site file in force as label.", "hash")
        self.config_reloads = counter(
            "config_reloads", "Wishes for another configuration, by how they ended.", "outcome"
        )
        self.config_ok = gauge(
            "config_last_reload_successful", "1 when the last wish was fulfilled, or none was there."
        )
        self.config_at = gauge(
            "config_last_reload_success_timestamp_seconds", "When the configuration in force was last read, Unix time."
        )
        # intake
        self.events = counter("events", "Events stored, by kind and lane.", "kind", "lane")
        self.driver_events = counter("driver_events", "Events stored, by driver.", "driver")
        self.repeats = counter("repeats", "Messages recognised as repeats of a stored event.")
        self.not_kept = counter("not_kept", "Observations that a rule keeps nothing of (a vehicle off duty).")
        self.suppressed = counter("events_suppressed", "Events stored and not sent on, by why.", "reason")
        self.flooding = gauge("flooding_sources", "Sources over their limit.")
        self.storm_windows = gauge("storm_windows", "Conditions whose repeats are being counted.")
        self.unclaimed = counter("unclaimed_events", "Events stored from devices that nobody has claimed.")
        self.rejected = counter(
            "rejected_frames", "Frames that were none, by connection and reason.", "connection", "reason"
        )
        # The one label that comes off the wire: the ids of the first few hundred devices, then "other".
        self.deviations = counter(
            "deviations",
            "Frames accepted although they depart from their protocol.",
            "connection",
            "device",
            "deviation",
        )
        # store
        self.store_up = gauge("store_up", "1 while events can be made durable.")
        self.store_bytes = gauge("store_bytes", "Disk in use by the event log.")
        self.store_budget_bytes = gauge("store_budget_bytes", "Disk the event log may use.")
        self.stored = gauge("stored_events", "Events on disk, by lane.", "lane")
        self.commit_seconds = histogram(
            "commit_seconds", "Duration of one synced group commit; its count is the number of syncs.", FAST_SECONDS
        )
        self.uncommitted = gauge("uncommitted_entries", "Events waiting for the next commit.")
        self.shed = counter("shed_events", "Events removed because the disk budget was short.", "lane")
        # the process
        self.loop_lag_seconds = histogram(
            "loop_lag_seconds",
            "How late the event loop woke; every answer to a device was that late too.",
            FAST_SECONDS,
        )
        # destinations
        self.destination_configured = gauge(
            "destination_configured", "0 for one that left the site file while events wait for it.", "destination"
        )
        self.destination_up = gauge("destination_up", "1 while the receiver answers.", "destination")
        self.pending = gauge("outbox_pending", "Events still to be accepted.", "destination", "lane")
        self.oldest_seconds = gauge(
            "outbox_oldest_seconds", "Age of the oldest event still to be accepted; 0 when none.", "destination", "lane"
        )
        self.dead = gauge("outbox_dead", "Events set aside as undeliverable, for a person to see.", "destination")
        self.sent = counter("sent", "Frames sent, repeats included.", "destination", "lane")
        self.accepted = counter("accepted", "Events the receiver accepted.", "destination", "lane")
        self.resent = counter("resent", "Frames sent again under the same key.", "destination")
        self.asked_again = counter("asked_again", "Accepted events that a person had queued again.", "destination")
        self.answers = counter("answers", "Answers of the receiver, by what they were.", "destination", "answer")
        self.delivery_seconds = histogram(
            "delivery_seconds", "From arrival of an event to its acceptance.", DELIVERY_SECONDS, "destination", "lane"
        )
        self.forwarder_errors = counter(
            "forwarder_errors", "Forwarders ended by a fault in our own code, and started again.", "destination"
        )
        self.clock_offset = gauge(
            "destination_clock_offset_seconds", "Receiver's clock minus ours, as its NAK said.", "destination"
        )
        # connections and devices
        self.connection_up = gauge("connection_up", "1 while the line to the devices is open.", "connection")
        self.connection_peers = gauge("connection_peers", "Devices connected on a listening line.", "connection")
        self.connection_lost = counter("connection_lost", "Times a line was lost.", "connection")
        self.broker_dropped = counter(
            "broker_dropped_messages", "Messages the MQTT broker could not keep, for us or another client, as it says."
        )
        self.driver_errors = counter("driver_errors", "Conversations ended by a fault in our own code.", "connection")
        self.bus_requests = counter("bus_requests", "Modbus requests by outcome.", "connection", "outcome")
        self.devices = gauge("devices", "Devices by site (empty: unclaimed) and state.", "site", "state")
        # supervision
        self.supervision_up = gauge("supervision_up", "1 while the states of devices can be recorded.")
        self.clock_synchronised = gauge("clock_synchronised", "1 while somebody (NTP) keeps the machine's clock right.")
        self.coverage_up = gauge("coverage_up", "1 while the coverage is counted.")
        self.supervision_lag_seconds = gauge(
            "supervision_lag_seconds", "Age of the newest event that was looked at for states, while there are more."
        )
        self.facts = counter("facts", "Facts recorded from events, by sort.", "sort")
        self.walk_tests = gauge("walk_tests", "Walk tests that run: alarms of their points go to nobody.")
        self.trials = counter(
            "trials",
            "Alarms and faults marked as tests, by a walk test or their own device: kept, shown, sent to nobody.",
        )
        self.tested_sites = gauge("tested_sites", "Sites that have to be networked, each with tests of its own to 110.")
        self.site_tests = counter("site_tests", "Tests of sites handed over for 110.")
        # coverage: numerators and denominators, by the nearest area of the sites (empty: none)
        self.coverage_points = gauge(
            "coverage_points", "Mandatory requirements of points, by area and state.", "area", "state"
        )
        self.coverage_sites = gauge(
            "coverage_sites", "Sites with mandatory technical requirements, and those of the target.", "area", "state"
        )
        self.coverage_sites_cut_off = gauge(
            "coverage_sites_cut_off", "Sites that must reach 110 and have no valid proof that they do.", "area"
        )
        self.coverage_devices = gauge("coverage_devices", "Devices of the ledger, by kind and state.", "kind", "state")
        self.deficiencies = gauge("deficiencies", "Deficiencies that are open, by area and gap.", "area", "gap")
        self.deficiencies_overdue = gauge(
            "deficiencies_overdue", "Those that should have been put right by now.", "area", "gap"
        )
        self.battery_empty_within = gauge(
            "battery_empty_within", "Devices whose battery is forecast to be empty within so many days.", "days"
        )
        # commands
        self.commands = counter("commands", "Commands, by act and how they ended.", "act", "outcome")
        self.commands_open = gauge("commands_open", "Commands that have not ended.")
        self.command_seconds = histogram(
            "command_seconds", "From the wish to the device's own evidence.", DELIVERY_SECONDS, "act"
        )
        # api
        self.stream_clients = gauge("stream_clients", "Listeners on the live stream.")
        self.stream_dropped = counter("stream_dropped", "Listeners dropped because they did not keep up.")
        # who may do what
        self.log_ins = counter("log_ins", "Tries to log in or to choose a password, by how they ended.", "outcome")
        self.audit_rows = gauge("audit_rows", "Number of the newest row of the audit record; it never falls.")
        self.audit_head = gauge(
            "audit_head",
            "First 48 bits of the newest row's hash: `fangkong audit verify --noted` holds the record against it.",
        )
        self.audit_ok = gauge("audit_ok", "0 when the audit record cannot be written, or rows of it are gone.")

        self._show_zeros()

    def _show_zeros(self) -> None:
        """A rate needs its series before the first event."""
        for kind, facts in FACTS.items():
            if kind is not Kind.HEARTBEAT:
                self.events.labels(kind.value, facts.lane.name.lower())
        for lane in Lane:
            self.shed.labels(lane.name.lower())
        for act in Act:
            self.command_seconds.labels(act.value)
            for ending in get_args(CommandOutcome):
                self.commands.labels(act.value, ending)
        for outcome in get_args(Outcome):
            self.config_reloads.labels(outcome)
        for attempt in get_args(LogInOutcome):
            self.log_ins.labels(attempt)
        for days in BATTERY_DAYS:
            self.battery_empty_within.labels(str(days))
        self.audit_ok.set(1)
        self.store_up.set(1)

    def forget(self, **labels: str) -> None:
        """Drop every series that carries these labels: what they speak of is gone from the configuration."""
        for metric in vars(self).values():
            if isinstance(metric, MetricWrapperBase) and labels.keys() <= set(metric._labelnames):  # noqa: SLF001  # not public
                metric.remove_by_labels(labels)

    def text(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)
