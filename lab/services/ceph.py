# SPDX-License-Identifier: Apache-2.0
"""Ceph: the site's own cluster of one monitor, one manager and one OSD on a sparse file, with a
pool for volumes.
"""

from __future__ import annotations

import json
import re
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab import inside
from lab.errors import LabError
from lab.service import NotReady, Program, Service
from lab.site import Site

POOL = "volumes"
CLIENT = "cloud"
"""The Ceph user of Cinder, Nova and the guests."""

AS_ROOT = ("--setuser", "root", "--setgroup", "root")
"""Options of each daemon: it would become the user `ceph` without."""

MONITOR_PORT = 3300

CONF = Path("/etc/ceph/ceph.conf")
"""Where every process of the site finds its own cluster."""

OSD_SIZE = 40 << 30
"""Bytes that the cluster offers; the file below is sparse, and never shrinks."""

ALWAYS = 101
"""Percent of free room below which BlueStore takes the piece that fits best. By default (4) it
takes the next one, and so writes all of a file once before it uses any room again.
"""

IDLE_MODULES = (
    "alerts influx insights iostat localpool mirroring nfs osd_perf_query osd_support prometheus "
    "restful selftest snap_schedule "
    "stats telegraf test_orchestrator zabbix dashboard"
)
"""Manager modules that may be off; each costs memory.

The always-on ones must stay, or health is an error.
"""

CAPABILITIES = {
    "client.admin": {"mon": "allow *", "osd": "allow *", "mds": "allow *", "mgr": "allow *"},
    "mgr.x": {"mon": "allow profile mgr", "osd": "allow *", "mds": "allow *"},
    f"client.{CLIENT}": {
        "mon": "profile rbd",
        "mgr": "profile rbd",
        "osd": f"profile rbd pool={POOL}",
    },
}


def client_key(site: Site) -> str:
    """The key of CLIENT, as libvirt's secret wants it (base64)."""
    return key(keyring(site, f"client.{CLIENT}"))


def keyring(site: Site, entity: str) -> Path:
    """Where the keyring of a Ceph user is; inside the site it has its usual place."""
    return site.etc / "ceph" / f"ceph.{entity}.keyring"


def key(keyring: Path) -> str:
    """The key in a keyring of one user (base64)."""
    found = re.search(r"key\s*=\s*(\S+)", keyring.read_text())
    if not found:
        raise LabError(f"no key in {keyring}; remove the lab's data with: python -m lab wipe")
    return found.group(1)


def make_keyring(site: Site, entity: str, capabilities: Mapping[str, str]) -> Path:
    """Make a Ceph user's keyring where it is missing; needs no running cluster."""
    file = keyring(site, entity)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        caps = [word for service, cap in capabilities.items() for word in ("--cap", service, cap)]
        _tool(
            "ceph-authtool",
            "--create-keyring",
            str(file),
            "--gen-key",
            "--name",
            entity,
            *caps,
        )
    return file


def add_user(site: Site, entity: str, capabilities: Mapping[str, str]) -> None:
    """Give the running cluster a user, with the key of its keyring."""
    file = make_keyring(site, entity, capabilities)
    inside.run(site, ["ceph", "auth", "import", "-i", str(file)])


def configuration_of(other: Site, site: Site) -> Path:
    """Write how the site's own services reach the cluster of another as CLIENT, which may be down.

    Returns: the file, with the key of that user.
    """
    name = f"client.{CLIENT}"
    secret = key(make_keyring(other, name, CAPABILITIES[name]))
    file = site.etc / "ceph" / f"{other.name}.conf"
    lines = ["[global]", f"mon_host = {addresses(other)}", f"[{name}]", f"key = {secret}", ""]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text("\n".join(lines))
    return file


def room(site: Site) -> int:
    """Bytes of the machine's disk that the site's storage takes."""
    return (site.data / "ceph" / "osd" / "block").stat().st_blocks * 512


def status(site: Site) -> dict[str, Any]:
    """`ceph status`; raises NotReady when no monitor answers."""
    try:
        answer = inside.run(
            site, ["ceph", "--connect-timeout", "5", "status", "--format", "json"], timeout=30
        )
    except LabError as e:
        raise NotReady(str(e)) from e
    result: dict[str, Any] = json.loads(answer.stdout)
    return result


class CephMonitor(Service):
    """Monitor and manager: a cluster that answers, still without storage."""

    name = "ceph-mon"

    def configure(self, site: Site) -> None:
        etc = site.etc / "ceph"
        etc.mkdir(parents=True, exist_ok=True)
        fsid_file = etc / "fsid"
        if not fsid_file.exists():
            fsid_file.write_text(str(uuid.uuid4()))
        (etc / "ceph.conf").write_text(_configuration(site, fsid_file.read_text()))
        for entity, capabilities in CAPABILITIES.items():
            make_keyring(site, entity, capabilities)

    def prepare(self, site: Site) -> None:
        (site.data / "ceph" / "mgr").mkdir(parents=True, exist_ok=True)
        etc, data = site.etc / "ceph", site.data / "ceph" / "mon"
        if (data / "complete").exists():
            return
        monitors = etc / "ceph.mon.keyring"
        _tool(
            "ceph-authtool",
            "--create-keyring",
            str(monitors),
            "--gen-key",
            "--name",
            "mon.",
            "--cap",
            "mon",
            "allow *",
        )
        for entity in CAPABILITIES:
            _tool(
                "ceph-authtool",
                str(monitors),
                "--import-keyring",
                str(keyring(site, entity)),
            )
        fsid = (etc / "fsid").read_text()
        monmap = str(etc / "monmap")
        _tool(
            "monmaptool",
            "--create",
            "--clobber",
            "--fsid",
            fsid,
            "--addv",
            "a",
            addresses(site),
            monmap,
        )
        data.mkdir(parents=True, exist_ok=True)
        inside.run(
            site,
            [
                "ceph-mon",
                "--mkfs",
                "-i",
                "a",
                "--monmap",
                monmap,
                "--keyring",
                str(monitors),
                *AS_ROOT,
            ],
        )
        (data / "complete").touch()

    def programs(self, site: Site) -> Sequence[Program]:
        return [
            Program("ceph-mon", ["ceph-mon", "-f", "-i", "a", *AS_ROOT]),
            Program("ceph-mgr", ["ceph-mgr", "-f", "-i", "x", *AS_ROOT]),
        ]

    def check_ready(self, site: Site) -> None:
        if not status(site)["mgrmap"]["available"]:
            raise NotReady("the manager is not available yet")

    def populate(self, site: Site) -> None:
        # asks disks for their health, of which there are none
        inside.run(
            site, ["ceph", "config", "set", "mgr", "mgr/devicehealth/enable_monitoring", "false"]
        )


class Ceph(Service):
    """The OSD and the pool: a cluster that stores."""

    name = "ceph"
    after = ("ceph-mon",)

    def prepare(self, site: Site) -> None:
        data = site.data / "ceph" / "osd"
        if (data / "complete").exists():
            return
        data.mkdir(parents=True, exist_ok=True)
        identity = data / "uuid"
        if not identity.exists():
            identity.write_text(str(uuid.uuid4()))
        secret = json.dumps({"cephx_secret": key(make_keyring(site, "osd.0", {}))})
        inside.run(site, ["ceph", "osd", "new", identity.read_text(), "-i", "-"], stdin=secret)
        inside.run(
            site, ["ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", identity.read_text(), *AS_ROOT]
        )
        (data / "complete").touch()

    def programs(self, site: Site) -> Sequence[Program]:
        return [Program("ceph-osd", ["ceph-osd", "-f", "-i", "0", *AS_ROOT])]

    def check_ready(self, site: Site) -> None:
        now = status(site)
        if now["osdmap"]["num_up_osds"] < 1:
            raise NotReady("the OSD is not up")
        groups = {g["state_name"]: g["count"] for g in now["pgmap"].get("pgs_by_state", [])}
        if not all(
            state.startswith("active+clean") for state in groups
        ):  # also while trimming or scrubbing
            raise NotReady(f"placement groups are not all active+clean: {groups}")

    def populate(self, site: Site) -> None:
        pools = inside.run(site, ["ceph", "osd", "pool", "ls"]).stdout.split()
        if POOL not in pools:
            inside.run(site, ["ceph", "osd", "pool", "create", POOL, "16", "16"])
        inside.run(site, ["ceph", "osd", "pool", "application", "enable", POOL, "rbd"])
        # returns only when the pool really serves
        inside.run(site, ["rbd", "--pool", POOL, "ls"], timeout=300)


def addresses(site: Site) -> str:
    """Where the site's monitor listens, as Ceph writes it."""
    return f"[v2:{site.address}:{MONITOR_PORT},v1:{site.address}:6789]"


def _tool(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"{' '.join(argv)} failed: {done.stderr.strip()}")


def _configuration(site: Site, fsid: str) -> str:
    data = site.data / "ceph"
    return f"""\
[global]
fsid = {fsid}
mon_host = {addresses(site)}
public_addr = {site.address}
cluster_addr = {site.address}
ms_bind_ipv6 = false
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
auth_allow_insecure_global_id_reclaim = false
log_to_stderr = true
err_to_stderr = true
log_file =
mon_cluster_log_file =
mon_cluster_log_to_stderr = false
crash_dir = {data}/crash
# one node, one copy
osd_crush_chooseleaf_type = 0
osd_pool_default_size = 1
osd_pool_default_min_size = 1
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
mon_allow_pool_delete = true
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_pool_default_pg_autoscale_mode = off
mon_max_pg_per_osd = 500
mon_data_avail_warn = 5
mon_data_avail_crit = 2
mgr_initial_modules =
mgr_disabled_modules = {IDLE_MODULES}
mon_mgr_mkfs_grace = 30
# memory
osd_memory_target = 939524096
osd_memory_cache_min = 33554432
bluestore_cache_autotune = false
bluestore_cache_size = 67108864
bluestore_cache_size_hdd = 67108864
bluestore_cache_size_ssd = 67108864
mon_memory_autotune = false
mon_memory_target = 268435456
rocksdb_cache_size = 33554432
osd_op_num_shards = 2
osd_op_num_threads_per_shard = 1
osd_map_cache_size = 20
osd_pg_epoch_persisted_max_stale = 20
ms_async_op_threads = 2
osd_min_pg_log_entries = 50
osd_max_pg_log_entries = 200
[mon.a]
host = {site.name}
mon_data = {data}/mon
[mgr.x]
mgr_data = {data}/mgr
keyring = /etc/ceph/ceph.mgr.x.keyring
[osd.0]
osd_data = {data}/osd
keyring = /etc/ceph/ceph.osd.0.keyring
osd_objectstore = bluestore
bluestore_block_create = true
bluestore_block_size = {OSD_SIZE}
bluestore_avl_alloc_bf_free_pct = {ALWAYS}
bluestore_block_db_create = false
bluestore_block_wal_create = false
[client]
log_to_stderr = false
admin_socket =
rbd_default_features = 61
"""
