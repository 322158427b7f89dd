"""What the lab's modules want of a site's Keystone: a connection, service users, catalog entries, a question to an API."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

from lab.service import NotReady
from lab.services.openstack_conf import KEYSTONE_PORT, PASSWORD
from lab.site import Site

_tokens: dict[Site, str] = {}


def connect(site: Site, user: str = "admin", project: str = "admin") -> Any:
    """A new openstacksdk connection; new, because a kept one does not see what the catalog has gained since."""
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
    return cloud.identity.find_project(name, domain_id="default") or cloud.identity.create_project(name=name, domain_id="default")


def add_user(cloud: Any, name: str, project: Any, *roles: str) -> None:
    """Make the user if it is not there and give it the roles in the project."""
    user = cloud.identity.find_user(name, domain_id="default") or cloud.identity.create_user(
        name=name, password=PASSWORD, domain_id="default", default_project_id=project.id
    )
    for role in roles:
        cloud.identity.assign_project_role_to_user(project, user, cloud.identity.find_role(role, ignore_missing=False))


def add_service(site: Site, user: str, url: str, *types: str) -> None:
    """Make a service's user and its catalog entry, one per service type; the entry comes last, so where it is all is."""
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
            cloud.identity.create_endpoint(service_id=service.id, interface=interface, url=url, region_id=site.region)


def ask(site: Site, port: int, path: str) -> Any:
    """What an API answers the admin to a GET, as JSON; `NotReady` when it does not."""
    url = site.url(port, path)
    try:
        for attempt in ("kept token", "fresh token"):
            if site not in _tokens:
                _tokens[site] = _token(site)
            request = urllib.request.Request(url, headers={"X-Auth-Token": _tokens[site], "Accept": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as refusal:
                if refusal.code != 401 or attempt == "fresh token":
                    raise NotReady(f"{url} answers {refusal.code} {refusal.reason}") from refusal
                del _tokens[site]
    except (OSError, http.client.HTTPException, ValueError) as failure:
        raise NotReady(f"{url} does not answer: {failure}") from failure


def _token(site: Site) -> str:
    """A token of admin in project admin, which is valid for a day."""
    user = {"name": "admin", "password": PASSWORD, "domain": {"id": "default"}}
    scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
    body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
    request = urllib.request.Request(
        site.url(KEYSTONE_PORT, "/v3/auth/tokens"), data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(answer.headers["X-Subject-Token"])
