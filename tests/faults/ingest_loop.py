"""The smallest thing that ingests: what the live run does with the stream, without what follows from the ticks.

It never gives up: whatever breaks, it begins again from what the warehouse says, as the next run would.
"""

import multiprocessing
import os
import resource
import signal
import time
from multiprocessing.process import BaseProcess

from cryptotrace_dagster.domain.windows import utc_now
from cryptotrace_dagster.pipeline.ingest import plan_from, store_batch
from cryptotrace_dagster.storage import StorageError, Warehouse
from cryptotrace_dagster.stream import StreamError, TickStream

_SPAWN = multiprocessing.get_context("forkserver")  # a child in milliseconds: the modules are imported already
_SPAWN.set_forkserver_preload([__name__])


def ingest_forever(
    url: str,
    data_path: str | None,
    bootstrap_servers: str,
    topic: str,
    batch_messages: int,
    largest_file: int | None,
    log_path: str,
) -> None:
    """Follow the topic into the warehouse until the process is killed."""
    os.dup2(os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)  # what the Kafka client complains of
    if largest_file is not None:  # what a full disk looks like to a process
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    warehouse = Warehouse(url, data_path=data_path, lock_wait_seconds=5)
    while True:
        try:
            with TickStream(bootstrap_servers, topic) as stream:
                low_watermarks, high_watermarks = stream.watermarks()
                stream.follow(plan_from(warehouse, stream), low_watermarks, high_watermarks)
                while True:
                    batch = stream.next_batch(batch_messages, 0.2)
                    if batch is not None:
                        store_batch(warehouse, batch, utc_now())
        except (StreamError, StorageError):
            time.sleep(0.2)


def start_ingest(
    warehouse: Warehouse,
    bootstrap_servers: str,
    topic: str,
    batch_messages: int = 200,
    largest_file: int | None = None,
    log_path: str = os.devnull,
) -> BaseProcess:
    """Start a process that ingests until it is killed; `largest_file` fills its disk at so many bytes."""
    process = _SPAWN.Process(
        target=ingest_forever,
        args=(
            warehouse.url,
            warehouse.address.data_path,
            bootstrap_servers,
            topic,
            batch_messages,
            largest_file,
            log_path,
        ),
        daemon=True,
    )
    process.start()
    return process


def kill(process: BaseProcess) -> None:
    """Kill a process the hard way and wait until it is gone."""
    process.kill()
    process.join(10)
