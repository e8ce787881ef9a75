"""Names of this machine in a request's `Host`. Pure.

A page of any site can make its name point to 127.0.0.1 (DNS rebinding): a server on loopback answers requests under the
names of loopback alone.
"""

from __future__ import annotations

import ipaddress


def host_name(host: str) -> str:
    """Return the name of a `Host` header without its port, and without the brackets of an IPv6 address."""
    name, bracket, _ = host.strip().removeprefix("[").partition("]")
    return name if bracket else name.rpartition(":")[0] or name


def is_loopback(name: str) -> bool:
    """Return whether a name or address is this machine's own."""
    if name.lower() in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
