"""Ports for tests: never a fixed one, for the machine may run the real thing or another test beside this one."""

import random
import socket


def free_port() -> int:
    """Return a port that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def free_port_offset(ports: list[int]) -> int:
    """Return a number that, added to each of the ports, gives ports that nothing listens on right now.

    They lie below those that the kernel lends to outgoing connections (32768 and up), and two tests that look at the
    same moment seldom choose the same.
    """
    offsets = range(10000, 23000, 97)
    for offset in random.sample(offsets, len(offsets)):
        if all(_is_free(port + offset) for port in ports):
            return offset
    raise RuntimeError("no offset leaves all ports free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
