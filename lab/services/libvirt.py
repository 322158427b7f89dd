# SPDX-License-Identifier: Apache-2.0
"""libvirtd and the guests it runs, private to the site; it knows the Ceph key under the site's
secret.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from lab import inside
from lab.errors import LabError
from lab.service import NotReady, Program, Service
from lab.services import ceph
from lab.site import Site


class Libvirt(Service):
    name = "libvirt"
    after = ("ceph-mon",)

    def configure(self, site: Site) -> None:
        etc = site.etc / "libvirt"
        if not (etc / "nwfilter").exists():
            # not the networks: the default one would make a bridge of its own
            shutil.copytree(
                Path("/etc/libvirt"),
                etc,
                dirs_exist_ok=True,
                ignore=shutil.ignore_patterns("networks"),
            )
        (etc / "libvirtd.conf").write_text(f"""\
host_uuid = "{site.ceph_secret}"
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
log_level = 3
log_outputs = "3:stderr"
""")
        (etc / "qemu.conf").write_text("""\
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
""")
        (etc / "secret.xml").write_text(f"""\
<secret ephemeral='no' private='no'><uuid>{site.ceph_secret}</uuid>
<usage type='ceph'><name>client.{ceph.CLIENT} secret</name></usage></secret>
""")

    def programs(self, site: Site) -> Sequence[Program]:
        return [Program("libvirtd", ["/usr/sbin/libvirtd"])]

    def check_ready(self, site: Site) -> None:
        try:
            inside.run(site, ["virsh", "version"], timeout=20)
        except LabError as e:
            raise NotReady(str(e)) from e

    def populate(self, site: Site) -> None:
        inside.run(site, ["virsh", "secret-define", "/etc/libvirt/secret.xml"])
        inside.run(
            site,
            ["virsh", "secret-set-value", site.ceph_secret, "--file", "/dev/stdin"],
            stdin=ceph.client_key(site),
        )
