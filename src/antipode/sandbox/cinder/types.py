# SPDX-License-Identifier: Apache-2.0
"""Volume types."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from antipode.sandbox.cinder.storage import Storage
from antipode.sandbox.database import Json
from antipode.sandbox.http import Call, Part, Refused, Route, page, public


def is_replicated(kind: Json) -> bool:
    """Whether a volume type, or the specs of one, wants its volumes replicated."""
    return bool(kind["extra_specs"].get("replication_enabled") == "<is> True")


class Types(Part):
    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def routes(self) -> Sequence[Route]:
        types = "/v3/types"
        return [
            Route("GET", types, self._list),
            Route("POST", types, self._create, admin=True),
            Route("GET", f"{types}/{{item}}", self._show),
            Route("DELETE", f"{types}/{{item}}", self._delete, 202, admin=True),
            Route("GET", f"{types}/{{item}}/encryption", self._encryption, admin=True),
            Route("POST", f"{types}/{{item}}/encryption", self._encrypt, admin=True),
            Route("PUT", f"{types}/{{item}}/encryption/{{key}}", self._encrypt_so, admin=True),
        ]

    async def _list(self, call: Call) -> Json:
        return page(call, "volume_types", self._storage.types, self._view)

    async def _show(self, call: Call, item: str) -> Json:
        if item == "default":
            return {"volume_type": self._view(self.named(None))}
        found = self._storage.types.get(item)
        if found is None:
            raise Refused(404, f"Volume type {item} could not be found.")
        return {"volume_type": self._view(found)}

    def _view(self, item: Json) -> Json:
        return {**public(item), "os-volume-type-access:is_public": item["is_public"]}

    async def _create(self, call: Call) -> Json:
        wanted = call.part("volume_type")
        if self._storage.types.where(lambda t: t["name"] == wanted["name"]):
            raise Refused(409, f"Volume Type {wanted['name']} already exists.")
        return {"volume_type": self._view(self.make(wanted["name"], wanted.get("extra_specs", {})))}

    async def _encryption(self, call: Call, item: str) -> Json:
        """Nothing for a plain type (cinder/api/contrib/volume_type_encryption.py)."""
        found = self._storage.types.get(item)
        if found is None:
            raise Refused(404, f"Volume type {item} could not be found.")
        return dict(found.get("_encryption") or {})

    async def _encrypt(self, call: Call, item: str) -> Json:
        found, wanted = self.named(item), call.part("encryption")
        if found.get("_encryption"):
            raise Refused(400, f"Volume type encryption for type {item} already exists.")
        encryption = {
            "volume_type_id": found["id"],
            "encryption_id": str(uuid.uuid4()),
            "provider": wanted["provider"],
            "cipher": wanted.get("cipher"),
            "key_size": wanted.get("key_size"),
            "control_location": wanted.get("control_location", "front-end"),
        }
        self._storage.types.keep(found, _encryption=encryption)
        return {"encryption": encryption}

    async def _encrypt_so(self, call: Call, item: str, key: str) -> Json:
        """Change how a type encrypts, which no volume of it may have used."""
        found, wanted = self.named(item), call.part("encryption")
        if self._storage.volumes.where(lambda v: v["volume_type_id"] == found["id"]):
            raise Refused(400, "Cannot update encryption specs. Volume type in use.")
        if (encryption := found.get("_encryption")) is None:
            raise Refused(404, f"Volume type encryption for type {item} does not exist.")
        known = {k: v for k, v in wanted.items() if k in encryption}
        self._storage.types.keep(found, _encryption={**encryption, **known})
        return {"encryption": known}

    def make(self, name: str, extra_specs: Json, type_id: str | None = None) -> Json:
        """A type; only on a controller of Cinder can its id be chosen, no API takes one.

        Raises:
            Refused: a type has, or had, this id: Cinder keeps rows of deleted types.
        """
        known = (self._storage.types, self._storage.deleted_types)
        if type_id is not None and any(type_id in table for table in known):
            raise Refused(409, f"Duplicate entry '{type_id}' for key 'PRIMARY'")
        item = {
            "id": type_id or str(uuid.uuid4()),
            "name": name,
            "description": None,
            "extra_specs": extra_specs,
            "is_public": True,
        }
        return self._storage.types.keep({**item, "qos_specs_id": None})

    async def _delete(self, call: Call, item: str) -> None:
        if self._storage.volumes.where(lambda v: v["volume_type_id"] == item):
            raise Refused(
                400,
                f"Target volume type is still in use: Volume Type {item} deletion is not allowed "
                "with volumes present.",
            )
        self._storage.types.drop(item)
        self._storage.deleted_types.keep({"id": item})

    def named(self, name: str | None) -> Json:
        """A type by name or id; the default type without one.

        Raises:
            Refused: 404, there is none.
        """
        if name is None:
            return next(iter(self._storage.types))
        for found in self._storage.types:
            if name in (found["name"], found["id"]):
                return found
        raise Refused(404, f"Volume type with name {name} could not be found.")
