# SPDX-License-Identifier: Apache-2.0
"""The clouds.yaml and antipode.yaml by which two sites are reached, embedded ones or the lab's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple


class Keystone(NamedTuple):
    """Where a site's users log in."""

    auth_url: str
    region: str


class User(NamedTuple):
    name: str
    password: str
    project: str


def cloud(keystone: Keystone, user: User) -> dict[str, Any]:
    """The entry of clouds.yaml for one user of one site."""
    return {
        "auth": {
            "auth_url": keystone.auth_url,
            "username": user.name,
            "password": user.password,
            "project_name": user.project,
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        },
        "region_name": keystone.region,
        "identity_api_version": 3,
        "interface": "public",
    }


def antipode(
    folder: Path, sites: Iterable[str], store: str, *, backups: str, vault: str = "antipode-vault"
) -> dict[str, Any]:
    """The content of an antipode.yaml with the database in `folder`.

    Args:
        sites: their names, which are also those of their entries in clouds.yaml.
        store: the site whose Swift keeps the vault and the backups.
        backups: the container of the backups.
        vault: the container of the vault.
    """
    return {
        "sites": {site: {"cloud": site} for site in sites},
        "vault": {"swift": {"site": store, "container": vault}},
        "backup_store": {"cloud": f"{store}-backup", "container": backups, "site": store},
        "database": f"sqlite:///{folder.resolve()}/antipode.db",
    }


def connection(clouds: Path, name: str) -> Any:
    """An openstacksdk connection by an entry of a clouds.yaml; the environment is not asked."""
    import openstack
    from openstack.config import OpenStackConfig

    config = OpenStackConfig(config_files=[str(clouds)], load_envvars=False)
    made = openstack.connection.Connection(config=config.get_one(name))
    # no proxy of the environment leads to this machine itself
    made.session.session.trust_env = False
    # made lazily and without a lock: threads must find them made
    _ = made.compute, made.network, made.block_storage, made.image
    return made
