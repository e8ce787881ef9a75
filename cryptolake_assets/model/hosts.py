"""Checks of the `Host` header against DNS rebinding. Pure.

Any site can point its name to 127.0.0.1, so a server on loopback accepts requests for loopback names only.
"""

from __future__ import annotations

import ipaddress


def host_name(host: str) -> str:
    """Return the host name of a `Host` header, without port and without the brackets of an IPv6 address."""
    name, bracket, _ = host.strip().removeprefix("[").partition("]")
    return name if bracket else name.rpartition(":")[0] or name


def is_loopback(name: str) -> bool:
    """Return whether a name or address is loopback."""
    if name.lower() in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
