# SPDX-License-Identifier: Apache-2.0
"""Questions to DNS servers, over TCP: what dnspython raises becomes our errors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.tsig

from antipode.errors import DnsFailed, DnsRecordChanged, DnsRefused, DnsUnreachable
from antipode.model.dns import RecordSet, RecordType, server_address


def absolute(name: str) -> dns.name.Name:
    """A name as dnspython has it."""
    return dns.name.from_text(f"{name}.")


def ask(
    server: str, name: str, kind: RecordType, timeout_s: float, key: dns.tsig.Key | None = None
) -> RecordSet | None:
    """The records that an authoritative server has.

    Args:
        server: as `model.dns.server_address` takes it.
        timeout_s: for the whole answer.
        key: that question and answer are signed with.

    Raises:
        DnsUnreachable: it does not answer, or cannot now.
        DnsRefused: it is no authority for the name, or refuses the question or the key.
        DnsRecordChanged: the name is an alias.
    """
    question = dns.message.make_query(absolute(name), kind)
    question.flags &= ~dns.flags.RD
    if key is not None:
        question.use_tsig(key)
    answer = send(server, question, timeout_s)
    rcode = answer.rcode()
    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise refused(server, rcode, f"the question for {name} {kind}")
    if not answer.flags & dns.flags.AA:
        raise DnsRefused(
            f"DNS server {server} is no authority for {name}: it does not have the zone"
        )
    for found in answer.answer:
        if found.name != absolute(name):
            continue
        if found.rdtype == dns.rdatatype.from_text(kind):
            return record_set(name, kind, found)
        if found.rdtype == dns.rdatatype.CNAME:
            raise DnsRecordChanged(
                f"{name} is an alias of {_value(found[0].to_text())} at DNS server {server}, and"
                f" has no {kind} records. Remove the CNAME, or write it as such in the VNF file"
            )
    return None


def send(server: str, message: dns.message.Message, timeout_s: float) -> dns.message.Message:
    """The answer to a message.

    Raises:
        DnsUnreachable: there is none.
        DnsRefused: the server refuses the key, or is not the one that has it; or it has not signed
            its answer to a signed message, which anybody may have sent then.
    """
    address, port = server_address(server)
    with _answering(server):
        answer = dns.query.tcp(message, address, timeout=timeout_s, port=port)
    # dnspython itself looks for that since 2.9 only; servers refuse unsigned
    is_refused = answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)
    if message.had_tsig and not answer.had_tsig and not is_refused:
        raise DnsRefused(f"DNS server {server} has not signed its answer to a signed message")
    return answer


def seen_at(server: str, wanted: RecordSet, timeout_s: float) -> str | None:
    """What a server says instead of the wanted records, in words; None where it has them."""
    try:
        there = ask(server, wanted.name, wanted.type, timeout_s)
    except DnsFailed as error:
        return f"cannot be asked: {error}"
    if there is not None and there.values == wanted.values:
        return None
    return f"has {there}" if there else "has none"


def record_set(name: str, kind: RecordType, found: dns.rrset.RRset) -> RecordSet:
    """Records as antipode has them."""
    values = sorted(_value(data.to_text()) for data in found)
    return RecordSet(name=name, type=kind, ttl=found.ttl, values=tuple(values))


def rrset(records: RecordSet) -> dns.rrset.RRset:
    """Records as dnspython has them."""
    values = [f"{v}." if records.type == "CNAME" else v for v in records.values]
    return dns.rrset.from_text(
        absolute(records.name), records.ttl, dns.rdataclass.IN, records.type, *values
    )


def refused(server: str, rcode: int, what: str) -> DnsFailed:
    """The error for an answer that is none."""
    name = dns.rcode.to_text(dns.rcode.Rcode(rcode))
    if rcode == dns.rcode.NOTAUTH:
        return DnsRefused(f"DNS server {server} does not have the zone: {what}, {name}")
    if rcode == dns.rcode.SERVFAIL:
        return DnsUnreachable(f"DNS server {server} cannot answer now: {what}, {name}")
    return DnsRefused(f"DNS server {server} refuses {what}: {name}")


def _value(text: str) -> str:
    return text.lower().removesuffix(".")


@contextmanager
def _answering(server: str) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    except (dns.tsig.BadTime, dns.tsig.PeerBadTime) as error:
        raise DnsRefused(
            f"the clocks of this host and of DNS server {server} differ: {error}"
        ) from error
    except (dns.tsig.PeerError, dns.tsig.BadSignature, dns.tsig.BadKey) as error:
        raise DnsRefused(
            f"DNS server {server} refuses the key: {error}. Compare its name, algorithm and"
            " secret with those of the server"
        ) from error
    except (OSError, EOFError, dns.exception.DNSException) as error:
        raise DnsUnreachable(
            f"DNS server {server} does not answer ({time.monotonic() - began:.1f} s waited):"
            f" {str(error) or type(error).__name__}"
        ) from error
