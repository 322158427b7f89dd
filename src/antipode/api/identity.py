# SPDX-License-Identifier: Apache-2.0
"""Users of the API: tokens and credentials, as the Keystone of any one site accepts them. A site
that is dead or silent delays no other.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from antipode.cloud import credentials
from antipode.config import Config
from antipode.errors import AntipodeError, Forbidden, NotAuthenticated, SiteUnreachable
from antipode.identity import one_form
from antipode.model.serving import ApiConfig

LOG = logging.getLogger(__name__)
HEDGE_S = 0.4
"""After so long without an answer the next site is asked too."""
SILENT_S = 15.0
"""For how long a site that gave no answer is not asked again, while another can be."""
AT_ONCE = 16
"""Requests to one Keystone."""
MOST_KNOWN = 10_000
"""Tokens in the cache."""
LONGEST_NAME = 100
"""Characters of a user's name that an identity has room for."""
LONGEST_TOKEN = 16_384


@dataclass(frozen=True)
class Caller:
    """A user of the API, with the roles that the token gives in one project."""

    user_id: str
    name: str
    domain: str
    project_id: str
    """of Keystone, at the site of the token"""
    project: str | None
    """as antipode.yaml names it; None: it has none for this project"""
    all_projects: bool
    """whether the roles count for all projects"""
    roles: frozenset[str]
    site: str
    """whose Keystone has accepted the token"""
    expires_at: float
    """seconds since the epoch"""

    @property
    def account(self) -> str:
        """The user of one Keystone, whose requests are counted."""
        return f"{self.user_id}@{self.site}"

    @property
    def identity(self) -> str:
        """`USER@SITE`, as runs, approvals and answers keep it. A user has one name at all sites,
        whatever its case, its spelling in Unicode and its domain: no one approves a run of an
        account of the same name.
        """
        name = one_form(self.name)
        if len(name) > LONGEST_NAME or not name.isprintable():
            digest = hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()[:16]
            name = f"{name[: LONGEST_NAME - 17]}-{digest}"
        return f"{name}@{self.site}"


@dataclass(frozen=True)
class Password:
    """A user and a password, for one project; by default the user's own."""

    user: str
    password: str
    user_domain: str = "Default"
    project: str | None = None
    project_domain: str = "Default"

    def plugin(self, url: str) -> Any:
        """As keystoneauth logs in with it."""
        from keystoneauth1.identity import v3

        scope = {"project_name": self.project, "project_domain_name": self.project_domain}
        return v3.Password(
            url,
            username=self.user,
            password=self.password,
            user_domain_name=self.user_domain,
            include_catalog=False,
            **(scope if self.project else {}),
        )

    def __repr__(self) -> str:
        return f"Password({self.user!r})"


@dataclass(frozen=True)
class ApplicationCredential:
    """An application credential of Keystone, which belongs to one project."""

    id: str
    secret: str

    def plugin(self, url: str) -> Any:
        """As keystoneauth logs in with it."""
        from keystoneauth1.identity import v3

        return v3.ApplicationCredential(
            url,
            application_credential_id=self.id,
            application_credential_secret=self.secret,
            include_catalog=False,
        )

    def __repr__(self) -> str:
        return f"ApplicationCredential({self.id!r})"


@dataclass(frozen=True)
class LoggedIn:
    """A user that has logged in, and the token of it."""

    caller: Caller
    token: str

    def __repr__(self) -> str:
        return f"LoggedIn({self.caller!r})"


class Keystone:
    """The identity service of one site."""

    def __init__(self, site: str, cloud: str, timeout_s: float) -> None:
        """No call is made.

        Args:
            cloud: the entry of clouds.yaml that says where it is; its user is not used.

        Raises:
            InvalidInput: there is no such entry, or it cannot be used.
        """
        from keystoneauth1 import access  # noqa: F401 - here, and not while users wait for it
        from keystoneauth1.identity import v3  # noqa: F401
        from keystoneauth1.session import Session

        self.site = site
        entry = credentials.read(site, cloud, timeout_s)
        verify, certificate = entry.get_requests_verify_args()
        url = str(entry.config["auth"]["auth_url"]).rstrip("/")
        self._url = url if url.endswith("/v3") else f"{url}/v3"
        self._session = Session(verify=verify, cert=certificate, timeout=timeout_s, redirect=False)
        self._workers = ThreadPoolExecutor(AT_ONCE, thread_name_prefix=f"keystone {site}")
        self._silent_until = 0.0

    def validate(self, token: str) -> LoggedIn:
        """The user of a token, which itself may ask for that (`GET /v3/auth/tokens`).

        Raises:
            NotAuthenticated: it is not valid here.
            SiteUnreachable: Keystone does not answer, or answers with a fault of its own.
        """
        from keystoneauth1 import access, exceptions

        headers = {"X-Auth-Token": token, "X-Subject-Token": token}
        try:
            answer = self._session.get(
                f"{self._url}/auth/tokens",
                params={"nocatalog": "1"},
                headers=headers,
                authenticated=False,
                raise_exc=False,
                log=False,
            )
        except exceptions.ConnectionError as error:
            raise SiteUnreachable(f"the Keystone of {self.site} does not answer") from error
        if answer.status_code in (400, 401, 403, 404):
            raise NotAuthenticated(f"the Keystone of {self.site} does not accept the token")
        if answer.status_code != 200:
            raise SiteUnreachable(f"the Keystone of {self.site} answers {answer.status_code}")
        return self._seen(lambda: access.create(resp=answer, auth_token=token))

    def log_in(self, given: Password | ApplicationCredential) -> LoggedIn:
        """A new token (`POST /v3/auth/tokens`).

        Raises:
            NotAuthenticated: the credentials are not valid here.
            SiteUnreachable: Keystone does not answer, or answers with a fault of its own.
        """
        from keystoneauth1 import exceptions

        try:
            return self._seen(lambda: given.plugin(self._url).get_auth_ref(self._session))
        except (exceptions.HTTPClientError, exceptions.AuthorizationFailure) as error:
            if getattr(error, "http_status", 401) == 429:
                raise SiteUnreachable(f"the Keystone of {self.site} answers 429") from error
            raise NotAuthenticated(
                f"the Keystone of {self.site} does not accept the credentials"
            ) from error
        except exceptions.ClientException as error:
            raise SiteUnreachable(f"the Keystone of {self.site} does not answer") from error

    def _seen(self, read: Callable[[], Any]) -> LoggedIn:
        """The user that an answer is about.

        Args:
            read: makes an `AccessInfo` of the answer.

        Raises:
            NotAuthenticated: it is about none that may use the API.
            SiteUnreachable: it is no answer of a Keystone, as of a proxy or another service.
        """
        try:
            found = read()
            token = str(found.auth_token)
            if found.application_credential_access_rules:
                raise NotAuthenticated("access rules of application credentials are not supported")
            if found.trust_scoped or found.oauth_consumer_id:
                raise NotAuthenticated("a token that was delegated by a trust names no person")
            if not found.project_scoped:
                raise NotAuthenticated("a token is needed that is scoped to a project")
            caller = Caller(
                user_id=str(found.user_id),
                name=str(found.username),
                domain=str(found.user_domain_name),
                project_id=str(found.project_id),
                project=None,
                all_projects=False,
                roles=frozenset(str(role).lower() for role in found.role_names),
                site=self.site,
                expires_at=found.expires.timestamp(),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SiteUnreachable(
                f"the Keystone of {self.site} gives an answer that cannot be used"
            ) from error
        if caller.expires_at <= time.time():
            raise NotAuthenticated("the token has expired")
        return LoggedIn(caller, token)

    @property
    def is_silent(self) -> bool:
        """Whether it gave no answer a short while ago."""
        return time.monotonic() < self._silent_until

    def begin(self, ask: Callable[[Keystone], LoggedIn]) -> Future[LoggedIn]:
        """Ask it, in a thread."""
        if self._silent_until:
            # one question shows whether it answers again; others do not wait for that
            self._silent_until = time.monotonic() + SILENT_S
        return self._workers.submit(self._noted, ask)

    def _noted(self, ask: Callable[[Keystone], LoggedIn]) -> LoggedIn:
        try:
            found = ask(self)
        except SiteUnreachable:
            self._silent_until = time.monotonic() + SILENT_S
            raise
        except NotAuthenticated:
            self._silent_until = 0.0
            raise
        self._silent_until = 0.0
        return found

    def fell_silent(self) -> None:
        """It did not answer in time."""
        self._silent_until = time.monotonic() + SILENT_S

    def close(self) -> None:
        """Ask nothing more."""
        self._workers.shutdown(wait=False, cancel_futures=True)


class Keystones:
    """The identity services of all sites that the configuration names. Safe to use from several
    threads.
    """

    def __init__(self, config: Config, settings: ApiConfig) -> None:
        self._settings = settings
        self._limit_s = settings.identity.timeout
        names = settings.identity.sites or list(config.sites)
        self._keystones = [Keystone(n, config.site(n).cloud, self._limit_s) for n in names]
        self._known: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()
        self._lock = threading.Lock()

    def validate(self, token: str, site: str | None = None) -> Caller:
        """The user of a token.

        Args:
            site: the only one that is asked; by default all of them.

        Raises:
            NotAuthenticated: no site accepts it.
            SiteUnreachable: no site answers.
        """
        if not token.isascii() or not token.isprintable() or not 0 < len(token) <= LONGEST_TOKEN:
            raise NotAuthenticated("the token is none")
        key = _key(token)
        if (caller := self._cached(key)) is not None:
            return caller
        asked = [k for k in self._keystones if site in (None, k.site)]
        found = self._first(asked, lambda keystone: keystone.validate(token))
        return self._kept(key, found.caller)

    def knows(self, token: str) -> bool:
        """Whether no Keystone is asked about a token now."""
        return self._cached(_key(token)) is not None

    def _cached(self, key: bytes) -> Caller | None:
        with self._lock:
            caller, until = self._known.get(key, (None, 0.0))
        return caller if time.time() < until else None

    def log_in(self, given: Password | ApplicationCredential, site: str | None = None) -> LoggedIn:
        """Log a user in, at one site or at the first that accepts the credentials.

        Raises:
            NotAuthenticated: no site accepts them.
            SiteUnreachable: no site answers.
        """
        asked = [k for k in self._keystones if site in (None, k.site)]
        if not asked:
            raise NotAuthenticated("there is no such site to log in at")
        found = self._first(asked, lambda keystone: keystone.log_in(given))
        return LoggedIn(self._kept(_key(found.token), found.caller), found.token)

    def sites(self) -> list[str]:
        """The sites at which a user may log in, those that were silent a short while ago last."""
        return [k.site for k in sorted(self._keystones, key=lambda k: k.is_silent)]

    def silent(self) -> set[str]:
        """The sites that gave no answer a short while ago."""
        return {k.site for k in self._keystones if k.is_silent}

    def forget(self, token: str) -> None:
        """Ask Keystone again at the next request with this token."""
        with self._lock:
            self._known.pop(_key(token), None)

    def close(self) -> None:
        """Ask no site any more."""
        for keystone in self._keystones:
            keystone.close()

    def _kept(self, key: bytes, caller: Caller) -> Caller:
        project = self._settings.project_at(caller.site, caller.project_id)
        there = self._settings.projects.get(project) if project is not None else None
        placed = Caller(
            **{
                **caller.__dict__,
                "project": project,
                "all_projects": there is not None and there.all_projects,
            }
        )
        until = min(placed.expires_at, time.time() + self._settings.identity.cache)
        with self._lock:
            self._known[key] = placed, until
            self._known.move_to_end(key)
            while len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        return placed

    def _first(
        self, keystones: Sequence[Keystone], ask: Callable[[Keystone], LoggedIn]
    ) -> LoggedIn:
        """What the first Keystone says that accepts; each is asked when those before it have
        refused, or have not answered for HEDGE_S. Those that were silent are left out while others
        are there.
        """
        waiting = [k for k in keystones if not k.is_silent] or list(keystones)
        left_out = [k.site for k in keystones if k not in waiting]
        under_way: dict[Future[LoggedIn], Keystone] = {}
        refusals: list[NotAuthenticated] = []
        deadline = time.monotonic() + self._limit_s + HEDGE_S * len(waiting)
        while waiting or under_way:
            if waiting:
                following = waiting.pop(0)
                under_way[following.begin(ask)] = following
            left_s = deadline - time.monotonic()
            done, _ = wait(under_way, min(HEDGE_S, left_s) if waiting else left_s, FIRST_COMPLETED)
            for future in done:
                keystone = under_way.pop(future)
                try:
                    return future.result()
                except NotAuthenticated as error:
                    refusals.append(error)
                except AntipodeError as error:
                    LOG.warning("%s", error)
                    left_out.append(keystone.site)
            if time.monotonic() >= deadline:
                for keystone in under_way.values():
                    keystone.fell_silent()
                    left_out.append(keystone.site)
                break
        silent = f"; no answer from: {', '.join(sorted(set(left_out)))}" if left_out else ""
        if not refusals:
            raise SiteUnreachable(f"no site can say whether these credentials are valid{silent}")
        raise NotAuthenticated(f"{refusals[0]}{silent}")


def _key(token: str) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def must_have_project(caller: Caller) -> None:
    """See that antipode.yaml knows the project of a token.

    Raises:
        Forbidden: it does not.
    """
    if caller.project is None:
        raise Forbidden(
            f"the project of the token at {caller.site} is none of antipode.yaml; see: api.projects"
        )
