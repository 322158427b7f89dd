# SPDX-License-Identifier: Apache-2.0
"""Rules by which addresses change between sites: a range takes the place of another of the same
size, and each address in it keeps its host part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network

Network = IPv4Network | IPv6Network
Rules = Mapping[str, str]
"""subnet or address -> that which takes its place"""


def checked(rules: dict[str, str]) -> dict[str, str]:
    """The same rules.

    Raises:
        ValueError: a side of one is no subnet and no address, the two have not the same size, or
            two lead to one place.
    """
    for was, here in rules.items():
        first, second = ip_network(was), ip_network(here)
        if (first.version, first.prefixlen) != (second.version, second.prefixlen):
            raise ValueError(f"{here} cannot take the place of {was}: it has another size")
    places = [ip_network(here) for here in rules.values()]
    for index, place in enumerate(places):
        if place in places[:index]:
            raise ValueError(f"{place} takes the place of two")
    return rules


def translated(address: str, rules: Rules) -> str:
    """The address that takes the place of one; the same without a rule for it. Of several rules the
    narrowest counts.
    """
    found = ip_address(address)
    rule = _narrowest(ip_network(found), rules)
    if rule is None:
        return address
    was, here = rule
    return str(here[int(found) - int(was.network_address)])


def translated_range(cidr: str, rules: Rules) -> str:
    """The range, or address, that takes the place of one; the same unless a rule covers it."""
    found = ip_interface(cidr)
    rule = _narrowest(found.network, rules)
    if rule is None:
        return cidr
    was, here = rule
    address = here[int(found.ip) - int(was.network_address)]
    return f"{address}/{found.network.prefixlen}" if "/" in cidr else str(address)


def one_address(cidr: str) -> str:
    """The address that a range of one address is about; empty for a wider one."""
    network = ip_network(cidr, strict=False)
    return str(network.network_address) if network.num_addresses == 1 else ""


def is_in(address: str, cidr: str) -> bool:
    """Whether an address is in a range, or is the address that is given in its place."""
    return ip_address(address) in ip_network(cidr, strict=False)


def is_as_wide(cidr: str, subnet: str) -> bool:
    """Whether a range has the whole of a subnet."""
    return _covers(ip_network(cidr, strict=False), ip_network(subnet, strict=False))


def is_about(pair: str, address: str, subnet: str) -> bool:
    """Whether an allowed address pair is about an address of a subnet: it is that, or a range. One
    that has the whole subnet lets a router pass, and is about no address.
    """
    return is_in(address, pair) and (bool(one_address(pair)) or not is_as_wide(pair, subnet))


def moved_within(cidr: str, rules: Rules) -> Iterator[str]:
    """The ranges of rules that are a part of a range which no rule covers."""
    whole = ip_network(cidr, strict=False)
    if _narrowest(whole, rules) is None:
        for was in rules:
            part = ip_network(was)
            if part.version == whole.version and _covers(whole, part):
                yield was


def _narrowest(whole: Network, rules: Rules) -> tuple[Network, Network] | None:
    covering = [
        (was, ip_network(rules[text]))
        for text in rules
        if (was := ip_network(text)).version == whole.version and _covers(was, whole)
    ]
    return max(covering, key=lambda rule: rule[0].prefixlen, default=None)


def _covers(outer: Network, inner: Network) -> bool:
    return (
        outer.prefixlen <= inner.prefixlen
        and inner.network_address in outer
        and inner.version == outer.version
    )
