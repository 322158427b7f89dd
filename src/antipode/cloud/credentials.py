# SPDX-License-Identifier: Apache-2.0
"""The entry of clouds.yaml that a site is reached by: read, and refused with the field's name where
it cannot be used.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from antipode.errors import InvalidInput

_NEEDED = {
    "password": ("auth_url", "password"),
    "v3password": ("auth_url", "password"),
}
"""What a login of this type cannot do without, and keystoneauth does not ask for at once."""


def read(name: str, cloud: str, api_timeout_s: float) -> Any:
    """The settings of a cloud, as openstacksdk takes them.

    Args:
        name: the site's name, for messages.
        cloud: the name of its entry.
        api_timeout_s: seconds after which a call without an answer has failed.

    Raises:
        InvalidInput: there is no such entry, or it cannot be used; names the file and the field.
    """
    from keystoneauth1 import exceptions as login
    from openstack import exceptions
    from openstack.config import OpenStackConfig
    from yaml import YAMLError

    place = f"Site {name}: cloud {cloud} in clouds.yaml"
    try:
        settings = OpenStackConfig(app_name="antipode")
        place = f"Site {name}: cloud {cloud} in {settings.config_filename or 'clouds.yaml'}"
        _check_sections(settings.cloud_config, cloud, place)
        region = settings.get_one(cloud=cloud, api_timeout=api_timeout_s)
        _check_login(region.config, place)
        region.get_auth()
    except (exceptions.SDKException, login.ClientException, YAMLError, OSError) as error:
        raise InvalidInput(f"{place} cannot be used: {error}") from error
    except (AttributeError, TypeError, ValueError, LookupError) as error:
        # openstacksdk reads the file without checking what kind of value is where.
        raise InvalidInput(
            f"{place} cannot be used: a value is of the wrong kind ({error})"
        ) from error
    return region


def entries(clouds: Collection[str]) -> dict[str, Any]:
    """These entries of clouds.yaml as they are written, secrets included.

    Raises:
        InvalidInput: the file cannot be read, or lacks one.
    """
    from openstack import exceptions
    from openstack.config import OpenStackConfig
    from yaml import YAMLError

    try:
        settings = OpenStackConfig(app_name="antipode")
        place = settings.config_filename or "clouds.yaml"
        found = (settings.cloud_config or {}).get("clouds") or {}
    except (exceptions.SDKException, YAMLError, OSError, AttributeError) as error:
        raise InvalidInput(f"clouds.yaml cannot be read: {error}") from error
    if missing := [cloud for cloud in clouds if not isinstance(found.get(cloud), dict)]:
        raise InvalidInput(f"{place} has no entry {', '.join(missing)}")
    return {cloud: found[cloud] for cloud in clouds}


def _check_sections(clouds: Any, cloud: str, place: str) -> None:
    entries = clouds.get("clouds") if isinstance(clouds, dict) else None
    if not isinstance(entries, dict):
        raise InvalidInput(f"{place} cannot be used: section clouds has no entries")
    entry = entries.get(cloud, {})
    if not isinstance(entry, dict):
        raise InvalidInput(f"{place} cannot be used: the entry is empty, or has no fields")
    if not isinstance(entry.get("auth", {}), dict):
        raise InvalidInput(f"{place} cannot be used: auth is empty, or has no fields")
    if entry.get("auth_type") == "v3applicationcredential":
        given = {**entry, **entry.get("auth", {})}
        name = given.get("application_credential_id") or given.get("application_credential_name")
        secret = given.get("application_credential_secret")
        _refuse_missing(
            place, {"application_credential_id": name, "application_credential_secret": secret}
        )


def _check_login(settings: Any, place: str) -> None:
    auth = settings.get("auth") or {}
    needed = _NEEDED.get(str(settings.get("auth_type") or "password"), ())
    _refuse_missing(place, {field: auth.get(field) for field in needed})


def _refuse_missing(place: str, needed: dict[str, Any]) -> None:
    if missing := [field for field, value in needed.items() if not value]:
        raise InvalidInput(f"{place} cannot be used: auth has no {' and no '.join(missing)}")
