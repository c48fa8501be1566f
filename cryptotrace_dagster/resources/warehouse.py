"""The warehouse as a Dagster resource: an address, opened for a moment at a time."""

import dagster as dg

from cryptotrace_dagster.connections import StoreAddress
from cryptotrace_dagster.storage import Warehouse


class WarehouseResource(dg.ConfigurableResource[None]):
    """Where the tables live. Holds no connection: an open one would keep every other process out."""

    url: str
    data_path: str = ""

    @property
    def is_lake(self) -> bool:
        """Return whether the store is DuckLake rather than a file."""
        return StoreAddress(self.url).is_lake

    def open(self) -> Warehouse:
        """Return the warehouse, with its tables made when it is new."""
        warehouse = Warehouse(self.url, data_path=self.data_path or None)
        warehouse.create()
        return warehouse
