# SPDX-License-Identifier: Apache-2.0
"""Keystone of an embedded site: tokens, the catalog, projects, users and roles, which are the same
few at every site.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from aiohttp import web

from antipode.sandbox.conditions import Conditions
from antipode.sandbox.database import Json
from antipode.sandbox.http import Call, Caller, Refused, Route, Service

PASSWORD = "sandbox"
PROJECT = "vnf"
TENANT = "demo"
OPERATOR = "antipode"
OTHERS_OPERATOR = "antipode-other"
"""antipode's user in the other tenant's project."""
BACKUP = "backup"
STAFF = "staff"
"""The project whose users work for all others."""
OTHER = "other"
"""A project of a tenant that has nothing to do with the VNF."""
TOKEN_LIFE = timedelta(hours=1)


class Account(NamedTuple):
    user: str
    project: str
    roles: tuple[str, ...]


ACCOUNTS = (
    Account("admin", "admin", ("admin", "manager", "member", "reader")),
    Account(OPERATOR, PROJECT, ("admin", "manager", "member", "reader")),
    Account(TENANT, PROJECT, ("member", "reader")),
    Account(BACKUP, BACKUP, ("member", "reader")),
    Account("boss", STAFF, ("dr_admin", "member", "reader")),
    Account("operator", STAFF, ("dr_operator", "member", "reader")),
    Account("approver", STAFF, ("dr_approver", "reader")),
    Account("observer", STAFF, ("reader",)),
    Account("tenant-operator", PROJECT, ("dr_operator", "member", "reader")),
    Account("tenant-observer", PROJECT, ("reader",)),
    Account(OTHERS_OPERATOR, OTHER, ("admin", "manager", "member", "reader")),
    Account("stranger", OTHER, ("dr_admin", "dr_operator", "dr_approver", "member", "reader")),
)
"""The users that may log in, their projects and roles."""


def known_id(*words: str) -> str:
    """The id of something that every site has from the beginning."""
    return hashlib.sha256("/".join(words).encode()).hexdigest()[:32]


class Keystone(Service):
    type = "identity"
    prefix = "/identity"

    def __init__(
        self, site: str, region: str, conditions: Conditions, services: Mapping[str, str]
    ) -> None:
        """`services`: type in the catalog -> path of its endpoint, with `{project}` for the
        project's id.
        """
        self._site = site
        self._region = region
        self._conditions = conditions
        self._services = services
        self._secret = known_id(site, "secret").encode()
        self._credentials: dict[str, Json] = {}
        """application credentials by id; they end with the site's process"""

    def routes(self) -> Sequence[Route]:
        return [
            Route("GET", "/", self._versions, 300, open=True),
            Route("GET", "/v3", self._version, open=True),
            Route("GET", "/v3/", self._version, open=True),
            Route("POST", "/v3/auth/tokens", self._log_in, open=True),
            Route("GET", "/v3/auth/tokens", self._show_token),
            Route("GET", "/v3/auth/catalog", self._catalog),
            Route(
                "POST",
                "/v3/users/{user}/application_credentials",
                self._make_application_credential,
                201,
            ),
            Route(
                "DELETE",
                "/v3/users/{user}/application_credentials/{credential}",
                self._delete_application_credential,
                204,
            ),
            Route("GET", "/v3/projects", self._projects),
            Route("GET", "/v3/projects/{project}", self._project),
            Route("GET", "/v3/users", self._users, admin=True),
            Route("GET", "/v3/roles", self._roles, admin=True),
        ]

    def fault(self, refused: Refused) -> web.Response:
        titles = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found"}
        title = titles.get(refused.status, "Internal Server Error")
        return web.json_response(
            {"error": {"code": refused.status, "message": refused.message, "title": title}},
            status=refused.status,
        )

    # ---- tokens: signed, so that they outlive the site's process, like Fernet tokens ----

    def authenticate(self, token: str) -> Caller | None:
        """The user of this token; None when it is not ours or has expired."""
        content, _, signature = token.partition(".")
        if not hmac.compare_digest(signature, self._sign(content)):
            return None
        account, expires = json.loads(base64.urlsafe_b64decode(content))
        if datetime.fromisoformat(expires) < self._conditions.now():
            return None
        return self._caller(ACCOUNTS[account])

    def _expiry(self, token: str) -> datetime:
        _account, expires = json.loads(base64.urlsafe_b64decode(token.partition(".")[0]))
        return datetime.fromisoformat(expires)

    def _sign(self, content: str) -> str:
        return hmac.new(self._secret, content.encode(), hashlib.sha256).hexdigest()

    def _issue(self, account: Account, expires: datetime) -> str:
        content = base64.urlsafe_b64encode(
            json.dumps([ACCOUNTS.index(account), expires.isoformat()]).encode()
        ).decode()
        return f"{content}.{self._sign(content)}"

    def _caller(self, account: Account) -> Caller:
        return Caller(
            known_id(self._site, "user", account.user),
            self.project_id(account.project),
            account.roles,
        )

    def project_id(self, project: str) -> str:
        return known_id(self._site, "project", project)

    # ---- calls ----

    async def _log_in(self, call: Call) -> web.Response:
        auth = call.part("auth")
        identity, scope = auth.get("identity", {}), auth.get("scope", {})
        now = self._conditions.now()
        expires = now + TOKEN_LIFE
        account: Account | None = None
        if "token" in identity.get("methods", []):
            holder = self.authenticate(identity["token"]["id"])
            account = next((a for a in ACCOUNTS if self._caller(a) == holder), None)
        elif "password" in identity.get("methods", []):
            user = identity["password"]["user"]
            if user.get("password") == PASSWORD:
                account = next(
                    (
                        a
                        for a in ACCOUNTS
                        if user.get("name") == a.user or user.get("id") == self._caller(a).user_id
                    ),
                    None,
                )
        elif "application_credential" in identity.get("methods", []):
            given = identity["application_credential"]
            made = self._credentials.get(str(given.get("id")))
            if made is not None and made["secret"] == given.get("secret"):
                account = ACCOUNTS[int(made["account"])]
        project = scope.get("project", {}) if isinstance(scope, dict) else {}
        if account and project and project.get("name", account.project) != account.project:
            account = None
        if account and "id" in project and project["id"] != self.project_id(account.project):
            account = None
        if account is None:
            raise Refused(401, "The request you have made requires authentication.")
        token = self._issue(account, expires)
        body = {"token": self._token(call, account, now, expires)}
        return web.json_response(body, status=201, headers={"X-Subject-Token": token})

    async def _show_token(self, call: Call) -> web.Response:
        asked = call.request.headers.get("X-Subject-Token", "")
        subject = self.authenticate(asked)
        account = next((a for a in ACCOUNTS if self._caller(a) == subject), None)
        if account is None:
            raise Refused(404, "This is not a recognized Fernet token")
        if subject != call.caller and not call.caller.is_admin:
            raise Refused(403, "You are not authorized to perform the requested action.")
        expires = self._expiry(asked)
        shown = self._token(call, account, expires - TOKEN_LIFE, expires)
        if "nocatalog" in call.query:
            shown.pop("catalog")
        return web.json_response({"token": shown}, headers={"X-Subject-Token": asked})

    async def _make_application_credential(self, call: Call, user: str) -> Json:
        if user != call.caller.user_id:
            raise Refused(403, "You are not authorized to perform the requested action.")
        account = next(i for i, a in enumerate(ACCOUNTS) if self._caller(a) == call.caller)
        asked = call.part("application_credential")
        made: Json = {
            "id": secrets.token_hex(16),
            "name": asked.get("name"),
            "project_id": call.caller.project_id,
            "secret": asked.get("secret") or secrets.token_urlsafe(32),
            "roles": [{"id": known_id("role", r), "name": r} for r in call.caller.roles],
            "unrestricted": False,
            "expires_at": None,
        }
        self._credentials[made["id"]] = {**made, "account": account}
        return {"application_credential": made}

    async def _delete_application_credential(self, call: Call, user: str, credential: str) -> None:
        if user != call.caller.user_id or self._credentials.pop(credential, None) is None:
            raise Refused(404, f"Could not find Application Credential: {credential}.")

    def _token(self, call: Call, account: Account, now: datetime, expires: datetime) -> Json:
        domain = {"id": "default", "name": "Default"}
        caller = self._caller(account)
        return {
            "methods": ["password"],
            "user": {
                "id": caller.user_id,
                "name": account.user,
                "domain": domain,
                "password_expires_at": None,
            },
            "project": {"id": caller.project_id, "name": account.project, "domain": domain},
            "is_domain": False,
            "roles": [{"id": known_id("role", role), "name": role} for role in account.roles],
            "issued_at": _moment(now),
            "expires_at": _moment(expires),
            "audit_ids": [known_id(_moment(now))[:22]],
            "catalog": self._entries(call, caller.project_id),
        }

    def _entries(self, call: Call, project_id: str) -> list[Json]:
        return [
            {
                "id": known_id(self._site, "service", service),
                "type": service,
                "name": service,
                "endpoints": [
                    {
                        "id": known_id(self._site, "endpoint", service, interface),
                        "interface": interface,
                        "region": self._region,
                        "region_id": self._region,
                        "url": call.base + path.format(project=project_id),
                    }
                    for interface in ("public", "internal", "admin")
                ],
            }
            for service, path in self._services.items()
        ]

    async def _catalog(self, call: Call) -> Json:
        return {"catalog": self._entries(call, call.caller.project_id)}

    async def _versions(self, call: Call) -> Json:
        return {"versions": {"values": [self._describe(call)]}}

    async def _version(self, call: Call) -> Json:
        return {"version": self._describe(call)}

    def _describe(self, call: Call) -> Json:
        links = [{"rel": "self", "href": f"{call.base}{self.prefix}/v3/"}]
        return {
            "id": "v3.14",
            "status": "stable",
            "updated": "2020-04-07T00:00:00Z",
            "links": links,
        }

    async def _projects(self, call: Call) -> Json:
        names = sorted({a.project for a in ACCOUNTS})
        wanted = call.query.get("name")
        return {"projects": [self._show_project(n) for n in names if wanted in (None, n)]}

    async def _project(self, call: Call, project: str) -> Json:
        for name in {a.project for a in ACCOUNTS}:
            if self.project_id(name) == project:
                return {"project": self._show_project(name)}
        raise Refused(404, f"Could not find project: {project}.")

    def _show_project(self, name: str) -> Json:
        return {
            "id": self.project_id(name),
            "name": name,
            "domain_id": "default",
            "enabled": True,
            "is_domain": False,
        }

    async def _users(self, call: Call) -> Json:
        wanted = call.query.get("name")
        return {
            "users": [
                {
                    "id": self._caller(a).user_id,
                    "name": a.user,
                    "domain_id": "default",
                    "enabled": True,
                }
                for a in ACCOUNTS
                if wanted in (None, a.user)
            ]
        }

    async def _roles(self, call: Call) -> Json:
        return {
            "roles": [
                {"id": known_id("role", r), "name": r}
                for r in sorted({role for account in ACCOUNTS for role in account.roles})
            ]
        }


def _moment(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
