"""The exchange as a Dagster resource: its REST host and its public dumps."""

import dagster as dg

from cryptotrace_dagster.binance.rest import BinanceRest


class ExchangeResource(dg.ConfigurableResource[None]):
    """Where what the stream did not bring, and what it should have been, can be asked."""

    rest_url: str
    dump_url: str

    def rest(self) -> BinanceRest:
        """Return a client; use it as a context manager."""
        return BinanceRest(self.rest_url)
