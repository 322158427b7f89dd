# SPDX-License-Identifier: Apache-2.0
"""A server with the API of S3 on the loopback, with faults on demand: moto, behind HTTP."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from antipode.config import S3Vault as Settings
from antipode.vault.s3 import S3Vault

KEY, SECRET = "AKIA0123456789ABCDEF", "never/shown/to/anybody/0123456789abcdef"
ERROR = '<?xml version="1.0"?><Error><Code>{}</Code><Message>{}</Message></Error>'
Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class S3Server:
    """One server; each bucket is a vault of its own."""

    def __init__(self, folder: Path) -> None:
        """`folder` is where its credentials are written to."""
        self._app: Wsgi = DomainDispatcherApplication(create_backend_app)
        self._faults: list[tuple[str, str, str]] = []
        self.ignored_headers: set[str] = set()
        """headers of requests that it does not look at, as WSGI names them"""
        self.capacity: dict[str, int] = {}
        """bytes that a bucket may hold"""
        self.held: dict[str, dict[str, int]] = {}
        """the bytes of each object, by bucket"""
        self.calls: list[tuple[str, str]] = []
        """method and path of each request"""
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self.credentials = folder / "credentials"
        self.credentials.write_text(
            f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
        )
        self.credentials.chmod(0o600)
        # it looks as often whether it is to end, and each test waits for that
        serve = functools.partial(self._server.serve_forever, poll_interval=0.02)
        threading.Thread(target=serve, daemon=True).start()

    def down(self) -> None:
        """Take no more requests."""
        self._server.shutdown()
        self._server.server_close()

    def settings(self, bucket: str, **more: Any) -> Settings:
        return Settings.model_validate(
            {
                "bucket": bucket,
                "endpoint": self.endpoint,
                "credentials_file": self.credentials,
                **more,
            }
        )

    def vault(self, bucket: str, **more: Any) -> S3Vault:
        """A vault in a bucket, which need not be there; further settings as in `settings`."""
        return S3Vault(self.settings(bucket, **more))

    def make(self, bucket: str, *, lock: bool = False) -> None:
        """Make a bucket, with object lock if it is wanted."""
        self.client(bucket).create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=lock)

    def client(self, bucket: str) -> Any:
        """A client of the server, as any owner of the bucket may have."""
        return self.vault(bucket)._s3

    @contextmanager
    def refusing(self, method: str, path: str, status: str, code: str = "Fault") -> Iterator[None]:
        """While it is entered, requests whose path matches `path` are refused with `status`."""
        fault = (method, path, f"{status} {code}")
        self._faults.append(fault)
        try:
            yield
        finally:
            self._faults.remove(fault)

    def _answer(self, environ: dict[str, Any], begin: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.calls.append((method, path))
        for name in self.ignored_headers:
            environ.pop(name, None)
        for of_method, of_path, refusal in self._faults:
            if method == of_method and re.search(of_path, path):
                return self._refuse(environ, begin, refusal)
        bucket, _, key = path.strip("/").partition("/")
        held, size = self.held.setdefault(bucket, {}), int(environ.get("CONTENT_LENGTH") or 0)
        if method == "PUT" and key:
            if sum(held.values()) + size > self.capacity.get(bucket, 1 << 60):
                return self._refuse(environ, begin, "507 InsufficientStorage")
            if not (environ.get("HTTP_IF_NONE_MATCH") and key in held):
                held[key] = size
        elif method == "DELETE":
            held.pop(key, None)
        return self._app(environ, begin)

    def _refuse(
        self, environ: dict[str, Any], begin: Callable[..., Any], refusal: str
    ) -> Iterable[bytes]:
        status, _, code = refusal.partition(" ")
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        begin(f"{status} {code}", [("Content-Type", "application/xml")])
        return [ERROR.format(code, "refused by the test").encode()]
