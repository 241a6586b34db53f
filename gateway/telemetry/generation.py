"""Which configuration is in effect, as metrics?"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import GaugeMetricFamily, Metric


class ConfigGauges:
    """Two gauges; what to alert on is `sluice_config_last_reload_successful == 0`."""

    def __init__(self, generation: Callable[[], int], ok: Callable[[], bool]) -> None:
        self._generation = generation
        self._ok = ok

    def collect(self) -> Iterable[Metric]:
        """Yield the gauges; prometheus-client's registry calls this on a scrape."""
        yield GaugeMetricFamily(
            "sluice_config_generation",
            "Number of the configuration in effect; 1 is what the process started with.",
            value=self._generation(),
        )
        yield GaugeMetricFamily(
            "sluice_config_last_reload_successful",
            "1, or 0 while the last attempt to reload has failed.",
            value=self._ok(),
        )
