# SPDX-License-Identifier: Apache-2.0
"""Standing volumes that are written through a helper server of an embedded site, to which Nova
attaches them: also after a mover was killed that has left them there.
"""

from __future__ import annotations

import os
import signal

import asyncssh
import pytest
from ruamel.yaml import YAML

from antipode.sandbox import desk
from tests.movers import movers
from tests.sandbox.conftest import BACKUP, World, until
from tests.sandbox.test_standing import standing, there

pytestmark = [pytest.mark.sandbox, pytest.mark.rest]


def helped(world: World) -> str:
    """Have the mover write through a server at the backup site; its id."""
    cloud, folder = world.cloud(BACKUP), world.sandbox.directory
    root = cloud.block_storage.create_volume(size=1, name="helper-root")
    until(lambda: cloud.block_storage.get_volume(root.id).status == "available", "there is a root")
    cloud.block_storage.set_volume_bootable_status(root, True)
    server = cloud.compute.create_server(
        name="helper",
        flavor_id=next(f.id for f in cloud.compute.flavors() if f.name == "tiny"),
        networks="none",
        block_device_mapping=[
            {
                "uuid": root.id,
                "source_type": "volume",
                "destination_type": "volume",
                "boot_index": 0,
            }
        ],
    )
    until(lambda: cloud.compute.get_server(server.id).status == "ACTIVE", "the helper is up")
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(folder / "helper.key")
    wanted = {"authorized": key.export_public_key().decode()}
    guest = world.sandbox.ask(BACKUP, "POST", f"/servers/{server.id}/ssh", wanted)
    (folder / "helper.known_hosts").write_text(guest["host_key"])
    known = YAML(typ="safe").load(folder / desk.CONFIGURATION)
    known["sites"][BACKUP]["mover"] = {
        "restores": False,
        "helper": {
            "server": server.id,
            "address": "127.0.0.1",
            "port": guest["port"],
            "key": str(folder / "helper.key"),
            "known_hosts": str(folder / "helper.known_hosts"),
        },
    }
    YAML().dump(known, folder / desk.CONFIGURATION)
    return str(server.id)


def on(world: World, server: str) -> set[str]:
    """The volumes that are attached to a server, without its root."""
    attached = world.cloud(BACKUP).compute.volume_attachments(server)
    return {a.volume_id for a in attached if a.device != "/dev/vda"}


def test_what_a_killed_mover_has_left_on_a_helper_is_detached_and_written_to_its_end(
    own_world: World,
) -> None:
    world = own_world
    server = helped(world)
    standing(world)
    world.protect()
    checks = {c["check"]: c["ok"] for c in world.operator.ask("site", "check")}
    assert checks["mover helper"]
    stuck = world.fault(BACKUP, r"^object-store GET \S+-\d{5}$", "stuck", times=None)
    with world.operator.begin("standing", "apply", "canary") as command:
        until(lambda: world.struck(BACKUP), "the mover fetches what it is about to write")
        [mover] = movers(command.pid)
        command.kill()
        os.kill(mover, signal.SIGKILL)
    world.sandbox.ask(BACKUP, "DELETE", f"/faults/{stuck}")
    assert on(world, server)
    done = world.operator.ask("standing", "apply", "canary")
    assert (done["volumes"], done["left"]) == (6, [])
    assert None not in {v["holds_backup"] for v in there(world).values()}
    assert on(world, server) == set()
