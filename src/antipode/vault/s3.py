# SPDX-License-Identifier: Apache-2.0
"""A vault in an S3 bucket; an S3 PUT is there whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from antipode import libraries
from antipode.cloud.answers import printable
from antipode.config import S3Vault as Settings
from antipode.errors import InvalidInput, NotFound, VaultError, VaultFull
from antipode.vault import MAKE_ROOM, PROBE, Vault, clock_remarks

CONNECT_S, READ_S = 10, 60
"""How long a connection, and an answer, are waited for (seconds)."""
ATTEMPTS = 3
CONFLICTS = 5
"""How often a write is tried again while another one of the same name is under way."""
_PUBLIC = ("/AllUsers", "/AuthenticatedUsers")
"""How the names of the groups end that anybody is in."""
_FULL = (413, 507)
_FULL_CODE = re.compile("QuotaExceeded|StorageFull|InsufficientStorage|InsufficientCapacity")
"""What services answer to a write where there is no room; the code of a quota comes with 400 or 403
in MinIO and Ceph."""
_FORBIDDEN = 403
_NOT_FOUND, _CONFLICT, _EXISTS, _NOT_IMPLEMENTED = 404, 409, 412, 501


class S3Vault(Vault):
    """Documents as objects of one bucket, which the operator has made.

    Credentials never leave botocore: neither messages nor logs have them.
    """

    def __init__(self, settings: Settings, go_on: Callable[[], None] | None = None) -> None:
        """
        Args:
            go_on: of the run that it is used by: raises when nothing more may be changed.

        Raises:
            InvalidInput: botocore is not installed, there are no credentials, or what the settings
                name is not there.
        """
        self._settings = settings
        self._bucket = settings.bucket
        self._go_on = go_on or (lambda: None)
        self._s3 = _client(settings)
        self._compares = False
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        return f"vault bucket {self._bucket} at {self._settings.endpoint or 'Amazon S3'}"

    def put(self, name: str, document: bytes) -> None:
        self._go_on()
        with self._calling("written"):
            self._s3.put_object(**self._object(name, document))

    def create(self, name: str, document: bytes) -> bool:
        """As `Vault.create` (PutObject with `If-None-Match: *`).

        A service that does not know the header would write over what is there, and say nothing. So
        it has to refuse a probe first, once for each connection. The rest is read back, as some
        services compare before they take the body in.
        """
        self._must_compare()
        return self._create(name, document) and self.get(name) == document

    def get(self, name: str) -> bytes:
        try:
            with self._calling("read", _NOT_FOUND):
                answer = self._s3.get_object(Bucket=self._bucket, Key=name)
                with closing(answer["Body"]) as body:
                    content: bytes = body.read(self.largest + 1)
                return content
        except self._s3.exceptions.NoSuchKey as error:
            raise NotFound(f"{self.place} has no {name}") from error

    def list(self, prefix: str) -> list[str]:
        return sorted(self.identities(prefix))

    def identities(self, prefix: str) -> Mapping[str, str]:
        """As `Vault.identities`, by the entity tags, which are of the content or of each write."""
        pages = self._s3.get_paginator("list_objects_v2")
        with self._calling("read"):
            return {
                item["Key"]: f"{item['ETag']} {item['Size']}" if item.get("ETag") else ""
                for page in pages.paginate(Bucket=self._bucket, Prefix=prefix)
                for item in page.get("Contents", ())
                if not _is_probe(item["Key"])
            }

    def delete(self, name: str) -> None:
        self._go_on()
        with self._calling("changed"):
            self._s3.delete_object(Bucket=self._bucket, Key=name)

    def check(self, by: str = "") -> None:
        super().check(by)
        if self._settings.lock is not None and not self._locks():
            raise VaultError(
                f"{self.place} has no object lock, which vaults.….s3.lock asks for. Object lock is "
                "chosen when a bucket is made: make another bucket, or remove the setting"
            )

    def remarks(self) -> Sequence[str]:
        with self._calling("read"):
            headers = self._s3.head_bucket(Bucket=self._bucket)["ResponseMetadata"]["HTTPHeaders"]
        remarks = clock_remarks(self.place, headers.get("date", ""))
        if public := self._public_grants():
            remarks.append(f"{self.place} is open to everybody ({public}): take that grant away")
        if self._settings.lock is None and self._locks() and not self._locks_by_itself():
            remarks.append(
                f"{self.place} can lock objects and does not: give its vault lock: {{days: N}}, or "
                "the bucket a default retention, so that recovery points cannot be removed"
            )
        return remarks

    def _create(self, name: str, document: bytes) -> bool:
        self._go_on()
        for _ in range(CONFLICTS):
            try:
                with self._calling("written", _EXISTS, _CONFLICT):
                    self._s3.put_object(**self._object(name, document), IfNoneMatch="*")
                return True
            except self._s3.exceptions.ClientError as error:
                about = error.response["ResponseMetadata"]
                if about["HTTPStatusCode"] == _EXISTS:
                    # an attempt whose answer was lost may have written it
                    return about.get("RetryAttempts", 0) > 0 and self.get(name) == document
        raise VaultError(f"{self.place}: {name} is being written by others; try again")

    def _must_compare(self) -> None:
        """See that the service creates only.

        Raises:
            VaultError: it writes over what is there, or it cannot be asked.
        """
        with self._lock:
            if self._compares:
                return
            probe = f"{PROBE}{secrets.token_hex(8)}"
            self.put(probe, b"")
            try:
                self._compares = not self._create(probe, b"over it")
            finally:
                self.delete(probe)
            if not self._compares:
                raise VaultError(
                    f"{self.place} ignores If-None-Match, so that two hosts could both fail over a "
                    "VNF. Use a service that knows conditional writes (Amazon S3, MinIO, Ceph), or "
                    "another kind of vault"
                )

    def _object(self, name: str, document: bytes) -> dict[str, Any]:
        """The arguments of PutObject. The service compares the MD5 with what it received."""
        md5 = hashlib.md5(document, usedforsecurity=False).digest()
        arguments: dict[str, Any] = {
            "Bucket": self._bucket,
            "Key": name,
            "Body": document,
            "ContentMD5": base64.b64encode(md5).decode(),
        }
        if (lock := self._settings.lock) is not None and not _is_probe(name):
            arguments["ObjectLockMode"] = lock.mode.upper()
            arguments["ObjectLockRetainUntilDate"] = datetime.now(UTC) + timedelta(days=lock.days)
        return arguments

    def _public_grants(self) -> str:
        """What everybody may do with the bucket (GetBucketAcl), as far as this account may see."""
        try:
            with self._calling("read", _FORBIDDEN, _NOT_FOUND, _NOT_IMPLEMENTED):
                grants = self._s3.get_bucket_acl(Bucket=self._bucket).get("Grants", [])
        except self._s3.exceptions.ClientError:
            return ""
        return ", ".join(
            sorted(g["Permission"] for g in grants if g["Grantee"].get("URI", "").endswith(_PUBLIC))
        )

    def _locks(self) -> bool:
        """Whether objects of the bucket can be locked (GetObjectLockConfiguration)."""
        return self._lock_configuration().get("ObjectLockEnabled") == "Enabled"

    def _locks_by_itself(self) -> bool:
        """Whether the bucket locks every object that is written to it."""
        return "DefaultRetention" in self._lock_configuration().get("Rule", {})

    def _lock_configuration(self) -> dict[str, Any]:
        try:
            with self._calling("read", _NOT_FOUND, _NOT_IMPLEMENTED):
                answer = self._s3.get_object_lock_configuration(Bucket=self._bucket)
        except self._s3.exceptions.ClientError:
            return {}
        found: dict[str, Any] = answer.get("ObjectLockConfiguration", {})
        return found

    @contextmanager
    def _calling(self, done: str, *passed: int) -> Iterator[None]:
        """An error in the block is one of the vault.

        Args:
            done: what could not be done to the vault: "written".
            passed: the HTTP statuses that the caller understands, and gets as they are raised.
        """
        from botocore import exceptions

        try:
            yield
        except self._s3.exceptions.ClientError as error:
            if error.response["Error"].get("Code") == "NoSuchBucket":
                raise VaultError(
                    f"{self.place} does not exist; create it, with versioning and object lock if "
                    "the service has them"
                ) from error
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in passed:
                raise
            raise self._refused(done, error) from error
        except (exceptions.BotoCoreError, exceptions.HTTPClientError, OSError) as error:
            raise VaultError(f"{self.place} cannot be {done}: {printable(str(error))}") from error

    def _refused(self, done: str, error: Any) -> VaultError:
        answer, status = error.response["Error"], error.response["ResponseMetadata"]
        words = f"{answer.get('Code')}: {answer.get('Message')}"
        what = f"{self.place} cannot be {done}: {status['HTTPStatusCode']} {printable(words)}"
        if status["HTTPStatusCode"] in _FULL or _FULL_CODE.search(str(answer.get("Code"))):
            return VaultFull(f"{what}. {MAKE_ROOM}")
        return VaultError(what)


def _client(settings: Settings) -> Any:
    """A client for S3; nothing is sent yet. Errors as for `S3Vault`."""
    libraries.need("botocore", "s3", "a vault in S3")
    from botocore import exceptions
    from botocore.config import Config
    from botocore.session import Session

    session = Session()
    session.register_component("data_loader", _descriptions())
    if settings.credentials_file is not None:
        session.set_config_variable("credentials_file", str(_private(settings.credentials_file)))
    try:
        if settings.profile is not None:
            session.set_config_variable("profile", settings.profile)
        if session.get_credentials() is None:
            raise InvalidInput(
                f"vault bucket {settings.bucket}: there are no credentials. Name a profile or a "
                "credentials_file, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        return session.create_client(
            "s3",
            endpoint_url=settings.endpoint,
            region_name=settings.region or session.get_config_variable("region") or "us-east-1",
            verify=str(settings.ca) if settings.ca else None,
            config=Config(
                connect_timeout=CONNECT_S,
                read_timeout=READ_S,
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                # services other than Amazon's have neither a name for each bucket nor, all of
                # them, the newer checksums; the MD5 is sent in any case
                s3={"addressing_style": "path" if settings.endpoint else "auto"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
    except (exceptions.BotoCoreError, ValueError) as error:
        raise InvalidInput(f"vault bucket {settings.bucket}: {printable(str(error))}") from error


@cache
def _descriptions() -> Any:
    """Amazon's descriptions of its services: files of megabytes, which a process reads once."""
    from botocore.loaders import create_loader

    return create_loader()


def _private(path: Path) -> Path:
    """A file that its owner alone may read.

    Raises:
        InvalidInput: it cannot be read, or others may read it too.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise InvalidInput(f"credentials_file {path}: {error.strerror}") from error
    if mode & 0o077:
        raise InvalidInput(f"credentials_file {path} can be read by others: chmod 600 {path}")
    return path


def _is_probe(name: str) -> bool:
    return name.startswith(PROBE)
