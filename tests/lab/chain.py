# SPDX-License-Identifier: Apache-2.0
"""A chain across the sites, which replicates its own data over the linked networks: its head runs
at site-a and acknowledges no record before the store at site-b has made it durable.

As a program it is the operator's command for each verb of the driver `command`.
"""

from __future__ import annotations

import fcntl
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from antipode.sandbox.creation import Creation
from antipode.sandbox.members import HTTP_PORT, PEER_PORT, Member
from lab import canary, guest_access, inside
from lab.errors import LabError
from lab.guest import image
from lab.services import identity, link, tenant
from lab.site import ROOT, SITES, Site

STORE = Member("db", "10.8.2.11")
"""At site-b, and no member of the VNF: it is what the application replicates to."""
HEAD = Member("front", "10.8.1.13", STORE.address)
"""The VNF, at site-a."""
RECOVERED = Member("front", "10.8.2.13", STORE.address)
"""The head where it is recovered."""
OLD_S = 10.0
"""A copy whose last record is older does not follow: the head makes ten in a second."""
NO_ANSWER = 75
FENCE = ("FORWARD", "-d", STORE.address, "-j", "DROP")
"""At the store's site: no record of the other site's head reaches it. Who promotes the store sets
it.
"""
Json = dict[str, Any]
Verb = Callable[[Json], Json]


def create(site: Site, member: Member) -> None:
    """Have a part of the chain run at a site, in its linked network."""
    cloud = canary.connect(site)
    has_image = cloud.image.find_image(image.NAME) is not None
    if not has_image:
        tenant.upload_image(identity.connect(site))
    Creation(
        cloud,
        site.name,
        image.NAME,
        canary.PERIOD_MS,
        lambda server: cloud.compute.reboot_server(server, "HARD"),
        600,
        interval_s=0.5,
        members=(member,),
        network=link.NETWORKS[site.name].name,
    ).run()
    if not has_image:
        admin = identity.connect(site)
        admin.image.delete_image(admin.image.find_image(image.NAME, ignore_missing=False))


def says(site: Site, member: Member) -> Json:
    """What a part of the chain says of itself."""
    answer = guest_access.answer(site, member.address, HTTP_PORT, timeout=5)
    return dict(json.loads(answer))


def storage() -> Json:
    """The storage of antipode.yaml whose commands are this program."""
    program = [sys.executable, "-m", "tests.lab.chain"]
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path)), "ANTIPODE_LAB": str(ROOT)}
    sites = {
        site: {"commands": dict.fromkeys(verbs, program), "environment": environment}
        for site, verbs in VERBS.items()
    }
    return {"driver": "command", "sites": sites}


def records(site: Site, member: Member) -> bytes:
    """The bytes of the records of a part of the chain now, read behind OpenStack's back."""
    cloud = canary.connect(site)
    server = cloud.compute.find_server(member.server, ignore_missing=False)
    attached = cloud.compute.volume_attachments(server)
    (volume,) = [a.volume_id for a in attached if a.device == canary.DATA_DEVICE]
    return canary.records_of_volume(site, str(volume))


def is_fenced(site: Site) -> bool:
    return inside.run(site, ["iptables", "-w", "-C", *FENCE], check=False).returncode == 0


def remove_fence(site: Site) -> None:
    while is_fenced(site):
        inside.run(site, ["iptables", "-w", "-D", *FENCE])


# ---- the verbs ----


def _status_of_head(request: Json) -> Json:
    said = says(SITES["site-a"], HEAD)
    position = str(said["durable"])
    return {"health": "writable", "position": position, "detail": f"the head is {said['state']}"}


def _status_of_store(request: Json) -> Json:
    site = SITES["site-b"]
    said = says(site, STORE)
    durable = int(said["durable"])
    behind_s = max(time.time() - int(said["ms"]) / 1000, 0)
    follows = "replicating" if behind_s < OLD_S else "stopped"
    wanted = request.get("position")
    return {
        "health": "writable" if is_fenced(site) else follows,
        "position": str(durable),
        "lag_s": behind_s,
        "detail": f"its last record is {behind_s:.1f} s old",
        **({} if wanted is None else {"reached": durable >= int(wanted)}),
    }


def _point(request: Json) -> Json:
    return {"position": str(says(SITES["site-a"], HEAD)["durable"])}


def _promote(request: Json) -> Json:
    site = SITES["site-b"]
    with _alone():
        if not is_fenced(site):
            inside.run(site, ["iptables", "-w", "-A", *FENCE])
    return {}


def _demote(request: Json) -> Json:
    with _alone():
        remove_fence(SITES["site-b"])
    return {}


def _reference(member: Member) -> Verb:
    return lambda request: {"reference": f"{member.address}:{PEER_PORT}"}


VERBS: Mapping[str, Mapping[str, Verb]] = {
    "site-a": {"status": _status_of_head, "reference": _reference(HEAD), "point": _point},
    "site-b": {
        "status": _status_of_store,
        "reference": _reference(STORE),
        "promote": _promote,
        "demote": _demote,
    },
}


@contextmanager
def _alone() -> Iterator[None]:
    with (ROOT / "chain.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    request = json.load(sys.stdin)
    if request["version"] != 1:
        print(f"version {request['version']} of the contract is unknown", file=sys.stderr)
        return 1
    try:
        answer = VERBS[request["site"]][request["verb"]](request)
    except LabError as error:
        print(error, file=sys.stderr)
        return NO_ANSWER
    print(json.dumps({"version": 1, **answer}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
