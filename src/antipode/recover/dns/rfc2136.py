# SPDX-License-Identifier: Apache-2.0
"""Records of a zone whose primary server takes updates as RFC 2136 has them, signed with TSIG.

An update names what it replaces (its prerequisites): the server compares and changes in one step.
"""

from __future__ import annotations

import binascii
import os
import re

import dns.message
import dns.rcode
import dns.tsig
import dns.update

from antipode import private
from antipode.config import Config
from antipode.config import Rfc2136 as Settings
from antipode.errors import DnsRecordChanged, DnsRefused, KeyUnusable
from antipode.model.dns import RecordSet, RecordType
from antipode.recover.dns import DnsProvider, queries

_KEY = re.compile(r'\bkey\s+"?(?P<name>[^\s"{]+)"?\s*\{(?P<body>[^}]*)\}', re.DOTALL)
_STRING_OR_COMMENT = re.compile(r'(?P<string>"[^"]*")|/\*.*?\*/|(?://|#)[^\n]*', re.DOTALL)
"""A secret may have "//" in it: only outside of quotes does it begin a comment."""
_FIELD = r'\b{}\s+"?([^\s";]+)"?\s*;'
_NEVER_THERE = {
    "A": ("192.0.2.255", "198.51.100.255"),
    "AAAA": ("2001:db8::ffff", "2001:db8::fffe"),
    "CNAME": ("antipode-precheck.invalid", "antipode-precheck.test"),
}
"""Values for examples (RFC 5737, 3849, 6761). To remove one that is not there changes nothing."""
_CHANGED = {
    dns.rcode.YXDOMAIN: "there are other records of that name",
    dns.rcode.YXRRSET: "there are records of that name by now",
    dns.rcode.NXDOMAIN: "there are no records of that name any more",
    dns.rcode.NXRRSET: "the records are others by now",
}


class Rfc2136(DnsProvider):
    def __init__(self, name: str, config: Config) -> None:
        super().__init__(name, config)
        settings = config.dns[name].rfc2136
        assert settings is not None  # chosen by it
        self._settings = settings
        self._server = settings.server

    @property
    def place(self) -> str:
        return f"DNS server {self._server}"

    @property
    def _key(self) -> dns.tsig.Key:
        """Read whenever it is used: a service outlives a key."""
        return key_of(self._settings)

    def read(self, name: str, kind: RecordType) -> RecordSet | None:
        return queries.ask(self._server, name, kind, self._timeout_s, self._key)

    def replace(self, old: RecordSet | None, new: RecordSet | None) -> None:
        subject = new or old
        assert subject is not None
        name = queries.absolute(subject.name)
        update = self._update()
        if old is not None:
            # an update with a TTL in its prerequisites is malformed
            expected = old.model_copy(update={"ttl": 0})
            update.present(name, queries.rrset(expected).to_rdataset())
        elif subject.type == "CNAME":
            update.absent(name)
        else:
            update.absent(name, subject.type)
            update.absent(name, "CNAME")
        if new is None:
            update.delete(name, subject.type)
        else:
            update.replace(name, queries.rrset(new).to_rdataset())
        self._send(update, subject)

    def try_rights(self, present: RecordSet | None, wanted: RecordSet) -> str:
        there = () if present is None else present.values
        value = next(v for v in _NEVER_THERE[wanted.type] if v not in there)
        never = wanted.model_copy(update={"values": (value,)})
        update = self._update()
        update.delete(queries.absolute(wanted.name), queries.rrset(never).to_rdataset())
        self._send(update, wanted)
        return f"{self.place} takes updates of it"

    def _update(self) -> dns.update.UpdateMessage:
        return dns.update.UpdateMessage(queries.absolute(self.zone), keyring=self._key)

    def _send(self, update: dns.update.UpdateMessage, subject: RecordSet) -> None:
        self._go_on()
        answer = queries.send(self._server, update, self._timeout_s)
        rcode = dns.rcode.Rcode(answer.rcode())
        if rcode == dns.rcode.NOERROR:
            return
        if rcode in _CHANGED:
            raise DnsRecordChanged(
                f"{self.place} has not changed {subject.key}: {_CHANGED[rcode]}"
                f" ({dns.rcode.to_text(rcode)})"
            )
        if rcode == dns.rcode.NOTZONE:
            raise DnsRefused(f"{subject.name} is not in zone {self.zone} of {self.place}")
        key = str(update.keyname).removesuffix(".")
        raise queries.refused(self._server, rcode, f"an update of {subject.key} with key {key}")


def key_of(settings: Settings) -> dns.tsig.Key:
    """The key that updates are signed with.

    Raises:
        KeyUnusable: it cannot be read, others can read it, or it is none.
    """
    if settings.key_file is not None:
        place = f"key file {settings.key_file}"
        algorithm, name, secret = _in_file(private.secret_in(settings.key_file), place)
    else:
        place = f"environment variable {settings.key_variable}"
        parts = os.environ.get(settings.key_variable or "", "").strip().split(":")
        if len(parts) != 3:
            raise KeyUnusable(
                f"{place} has no key: it must be ALGORITHM:NAME:SECRET, for example"
                " hmac-sha256:antipode:c2VjcmV0",
                resource=place,
            )
        algorithm, name, secret = parts
    if algorithm.lower().removesuffix(".") not in _ALGORITHMS:
        raise KeyUnusable(
            f"{place} has a key of algorithm {algorithm}; those that are known:"
            f" {', '.join(sorted(_ALGORITHMS))}",
            resource=place,
        )
    try:
        binascii.a2b_base64(secret.encode(), strict_mode=True)
        return dns.tsig.Key(name, secret, algorithm.lower())
    except Exception as error:  # the secret must be in no message
        raise KeyUnusable(
            f"{place} has no key that can be used: {type(error).__name__}", resource=place
        ) from None


_ALGORITHMS = ("hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512", "hmac-sha1", "hmac-md5")


def _in_file(content: str, place: str) -> tuple[str, str, str]:
    """The algorithm, name and secret of the only key in a file as BIND has it."""
    bare = _STRING_OR_COMMENT.sub(lambda found: found["string"] or " ", content)
    keys = list(_KEY.finditer(bare))
    if len(keys) != 1:
        raise KeyUnusable(
            f"{place} has {len(keys) or 'no'} keys; it must have one, as tsig-keygen prints it",
            resource=place,
        )
    body = keys[0]["body"]
    fields = [re.search(_FIELD.format(field), body) for field in ("algorithm", "secret")]
    if fields[0] is None or fields[1] is None:
        raise KeyUnusable(f"{place} has a key without algorithm or secret", resource=place)
    return fields[0][1], keys[0]["name"], fields[1][1]
