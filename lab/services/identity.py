# SPDX-License-Identifier: Apache-2.0
"""A site's Keystone for the lab's modules: connections, service users, catalog entries, and GETs to
an API.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any, NamedTuple

from lab.service import NotReady
from lab.services.openstack_conf import KEYSTONE_PORT, PASSWORD
from lab.site import Site


class _Login(NamedTuple):
    token: str
    project_id: str


_logins: dict[tuple[Site, str, str], _Login] = {}


def connect(site: Site, user: str = "admin", project: str = "admin") -> Any:
    """A new openstacksdk connection; new, because a kept one does not see later entries of the
    catalog.
    """
    import openstack

    return openstack.connect(
        auth_url=site.url(KEYSTONE_PORT, "/v3"),
        username=user,
        password=PASSWORD,
        project_name=project,
        user_domain_id="default",
        project_domain_id="default",
        region_name=site.region,
        app_name="antipode-lab",
        load_yaml_config=False,
        load_envvars=False,
    )


def add_project(cloud: Any, name: str) -> Any:
    return cloud.identity.find_project(name, domain_id="default") or cloud.identity.create_project(
        name=name, domain_id="default"
    )


def add_user(cloud: Any, name: str, project: Any, *roles: str) -> None:
    """Make the user if it is not there and give it the roles in the project."""
    user = cloud.identity.find_user(name, domain_id="default") or cloud.identity.create_user(
        name=name, password=PASSWORD, domain_id="default", default_project_id=project.id
    )
    for role in roles:
        cloud.identity.assign_project_role_to_user(
            project, user, cloud.identity.find_role(role, ignore_missing=False)
        )


def add_service(site: Site, user: str, url: str, *types: str) -> None:
    """Make a service's user and its catalog entry, one per service type; the entry comes last, so
    where it is all is.
    """
    cloud = connect(site)
    known = {service.type: service for service in cloud.identity.services()}
    registered = {endpoint.service_id for endpoint in cloud.identity.endpoints(interface="admin")}
    missing = [kind for kind in types if kind not in known or known[kind].id not in registered]
    if not missing:
        return
    add_user(cloud, user, add_project(cloud, "service"), "admin", "service")
    for kind in missing:
        service = known.get(kind) or cloud.identity.create_service(name=user, type=kind)
        for interface in ("public", "internal", "admin"):
            cloud.identity.create_endpoint(
                service_id=service.id, interface=interface, url=url, region_id=site.region
            )


def s3_keys(cloud: Any) -> tuple[str, str]:
    """An access key and its secret, with which S3 clients act for a user in its project."""
    user, project = cloud.current_user_id, cloud.current_project_id
    path = f"/users/{user}/credentials/OS-EC2"
    known = cloud.identity.get(path).json()["credentials"]
    ours = next((c for c in known if c["tenant_id"] == project), None)
    if ours is None:
        answer = cloud.identity.post(path, json={"tenant_id": project})
        ours = answer.json()["credential"]
    return ours["access"], ours["secret"]


def ask(site: Site, port: int, path: str, user: str = "admin", project: str = "admin") -> Any:
    """The answer of an API to a user's GET, as JSON; raises `NotReady` without one.

    `{project_id}` in the path is filled in.
    """
    try:
        kept = _logins.get((site, user, project))
        if kept:
            try:
                return _get(site, port, path, kept)
            except urllib.error.HTTPError as refusal:
                if refusal.code != 401:  # 401: the token is older than a wipe
                    raise
        _logins[site, user, project] = login = _log_in(site, user, project)
        return _get(site, port, path, login)
    except urllib.error.HTTPError as refusal:
        raise NotReady(f"{refusal.url} answers {refusal.code} {refusal.reason}") from refusal
    except (OSError, http.client.HTTPException, ValueError) as failure:
        raise NotReady(f"{site.url(port, path)} does not answer: {failure}") from failure


def _get(site: Site, port: int, path: str, login: _Login) -> Any:
    url = site.url(port, path.format(project_id=login.project_id))
    request = urllib.request.Request(
        url, headers={"X-Auth-Token": login.token, "Accept": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def _log_in(site: Site, user: str, project: str) -> _Login:
    """A token, which is valid for a day."""
    domain = {"id": "default"}
    methods = {
        "methods": ["password"],
        "password": {"user": {"name": user, "password": PASSWORD, "domain": domain}},
    }
    body = {
        "auth": {"identity": methods, "scope": {"project": {"name": project, "domain": domain}}}
    }
    request = urllib.request.Request(
        site.url(KEYSTONE_PORT, "/v3/auth/tokens"),
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return _Login(
            answer.headers["X-Subject-Token"], json.load(answer)["token"]["project"]["id"]
        )
