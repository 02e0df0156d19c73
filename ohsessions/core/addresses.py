"""The address of a client behind trusted proxies, and the key under which limits count it.

A forwarded header is a list. Each proxy adds an entry at its right end, and anybody may have written the left
end. So the list is read from the right, and an entry is believed only if a trusted proxy wrote it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

X_FORWARDED_FOR = "x-forwarded-for"
FORWARDED = "forwarded"
HEADERS = (X_FORWARDED_FOR, FORWARDED)
"""The headers that can be read. RFC 7239 defines the second one."""
UNIX_SOCKET = "unix"
"""The name in TRUSTED_PROXIES of a peer without an address."""
IPV6_CLIENT = 64
"""The bits of an IPv6 address that identify a client: each client is given a network of this size."""


@lru_cache(maxsize=16)
def parse_networks(networks: tuple[str, ...]) -> tuple[Network, ...]:
    """Return the networks of TRUSTED_PROXIES. Raises ValueError for a text that is no network."""
    return tuple(ip_network(network) for network in networks if network != UNIX_SOCKET)


def client_address(peer: str, forwarded: Iterable[str], header: str, trusted: Sequence[str]) -> str:
    """Return the address of a client whose connection comes from `peer`.

    `forwarded` are the values of `header`, one of HEADERS, in their order. While an address is that of a
    trusted proxy, the entry that this proxy wrote is believed. The first address that is not trusted is the
    client's.
    """
    networks = parse_networks(tuple(trusted))
    address = _parse(peer)
    here = peer if address is None else str(address)
    is_trusted = _is_in(address, networks) if peer else UNIX_SOCKET in trusted
    entries = list(_entries(forwarded, header)) if is_trusted else []
    while is_trusted and entries:
        address = _parse(entries.pop())
        if address is None:  # "unknown", or no address at all: its proxy is the last address that is known
            break
        here, is_trusted = str(address), _is_in(address, networks)
    return here


def limit_key(address: str) -> str:
    """Return the key under which limits count a client: an IPv4 address, or the /64 of an IPv6 address."""
    parsed = _parse(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((int(parsed) >> 64 << 64, IPV6_CLIENT)))
    return address if parsed is None else str(parsed)


def _is_in(address: Address | None, networks: tuple[Network, ...]) -> bool:
    return address is not None and any(address in network for network in networks)


def _parse(text: str) -> Address | None:
    """Return the address in `text`, or None. It may have a port, brackets or a zone."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _entries(values: Iterable[str], header: str) -> Iterable[str]:
    for value in values:
        for element in value.split(","):
            yield element if header == X_FORWARDED_FOR else _forwarded_for(element)


def _forwarded_for(element: str) -> str:
    """Return the node that one element of `Forwarded` names; empty if it names none."""
    for pair in element.split(";"):
        name, _, value = pair.partition("=")
        if name.strip().lower() == "for":
            return value.strip().strip('"')
    return ""
