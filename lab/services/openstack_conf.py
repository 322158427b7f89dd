# SPDX-License-Identifier: Apache-2.0
"""Configuration that all OpenStack services of a site share: how to reach Keystone, the database,
the message bus.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.site import VENV, Site

PASSWORD = "pw"
"""Of every user of the lab: there is nothing to protect here."""

KEYSTONE_PORT = 5000
TRANSPORT_URL = "rabbit://lab:lab@127.0.0.1:5672//"

Section = Mapping[str, object]
Sections = Mapping[str, Section]


def write(path: Path, sections: Sections) -> None:
    """Write an oslo.config or paste file; bools are written in lower case and lists with commas."""
    lines: list[str] = []
    for name, options in sections.items():
        lines += [f"[{name}]", *(f"{key} = {_render(value)}" for key, value in options.items()), ""]
    write_text(path, "\n".join(lines))


def write_text(path: Path, text: str) -> None:
    """Write a file so that a service that is reading it meets either the old or the new
    contents.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text)
    fresh.replace(path)


def _render(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(str(item) for item in value)
    return str(value)


def packaged(service: str, name: str) -> Path:
    """A configuration file that the service's own distribution brings along."""
    return VENV / "etc" / service / name


def executable(name: str) -> str:
    return str(VENV / "bin" / name)


def state(site: Site, service: str, *folders: str) -> Path:
    """The folder of a service's state, made with the folders named below it."""
    home = site.data / service
    for folder in ("", *folders):
        (home / folder).mkdir(parents=True, exist_ok=True)
    return home


def database(name: str, pool: int = 5) -> dict[str, object]:
    return {"connection": database_url(name), "max_pool_size": pool}


def database_url(name: str) -> str:
    return f"mysql+pymysql://lab:lab@127.0.0.1:3306/{name}?charset=utf8mb3"


def credentials(site: Site, user: str) -> dict[str, object]:
    """Options by which a service logs in to the site's Keystone as its service user."""
    return {
        "auth_type": "password",
        "auth_url": site.url(KEYSTONE_PORT, "/v3"),
        "username": user,
        "password": PASSWORD,
        "project_name": "service",
        "user_domain_id": "default",
        "project_domain_id": "default",
        "region_name": site.region,
    }


def token_validation(site: Site, user: str) -> dict[str, Section]:
    """How an API checks the tokens of its callers.

    Service tokens are demanded: Cinder refuses attachment changes without.
    """
    return {
        "keystone_authtoken": {
            "www_authenticate_uri": site.url(KEYSTONE_PORT, "/v3"),
            **credentials(site, user),
            "service_token_roles": "service",
            "service_token_roles_required": True,
            "token_cache_time": 600,
        }
    }


def service_token(site: Site, user: str) -> dict[str, Section]:
    """How a service vouches for a user's call that it passes on."""
    return {"service_user": {"send_service_user_token": True, **credentials(site, user)}}


def messaging() -> dict[str, object]:
    """Options of [DEFAULT] for services that talk over RabbitMQ."""
    return {"debug": False, "use_stderr": True, "transport_url": TRANSPORT_URL}


def oslo(site: Site, service: str) -> dict[str, Section]:
    """Sections of the oslo libraries; one heartbeat-less connection is enough on one machine."""
    return {
        "oslo_concurrency": {"lock_path": state(site, service, "lock") / "lock"},
        "oslo_messaging_notifications": {"driver": "noop"},
        "oslo_messaging_rabbit": {"rabbit_retry_backoff": 1, "heartbeat_timeout_threshold": 0},
        "oslo_policy": {"enforce_scope": True},
    }


def daemon(name: str, configuration: Path) -> Sequence[str]:
    """The command of an OpenStack process that is not a web application."""
    return [executable(name), "--config-file", str(configuration)]
