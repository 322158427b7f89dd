# SPDX-License-Identifier: Apache-2.0
"""Keys of encrypted volumes: read at the site of the volumes, kept in the key managers of their
backup sites, and what those sites need to bring such volumes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from antipode.cloud.api import ApiError
from antipode.cloud.keys import NO_KEY
from antipode.cloud.volumes import SHOWS_KEYS
from antipode.errors import AntipodeError, PreflightFailed, ResourceFailed, SiteUnreachable
from antipode.model.source import VolumeKey
from antipode.model.steps import StepName
from antipode.model.topology import Volume
from antipode.protect.option import Protecting

if TYPE_CHECKING:
    from antipode.cloud.api import Json
    from antipode.cloud.site import Site


class KeySteps(StepName):
    KEEP = "1.6", "keep keys of encrypted volumes"


def problems(p: Protecting, volumes: Sequence[Volume]) -> Iterator[str]:
    """One sentence for each reason why these encrypted volumes could not be brought back at a
    backup site. Their keys are read, and nothing is stored.
    """
    if not volumes:
        return
    known, found = _described(p.site, volumes)
    yield from found
    if found:
        return
    try:
        sites = p.elsewhere()
    except SiteUnreachable as error:
        yield f"{error}; the keys of encrypted volumes are kept at a backup site"
        return
    for site in sites:
        names = p.vnf.map_between(p.site.name, site.name).volume_types
        wanted = {v.id: names.get(v.volume_type, v.volume_type) for v in volumes}
        yield from problems_at(site, known, wanted)


def kept(
    p: Protecting, volumes: Sequence[Volume], previous: Mapping[str, VolumeKey]
) -> dict[str, VolumeKey]:
    """Have the keys of these volumes in the key managers of all backup sites that answer; volume
    id -> the key. Safe to repeat: a key that is there is used.

    Args:
        previous: volume id -> the key that the newest recovery point names.

    Raises:
        ResourceFailed: a key cannot be read.
        SiteUnreachable: no backup site answers.
    """
    if not volumes:
        return {}
    with p.timeline.step(KeySteps.KEEP, p.vnf.vnf) as step:
        known, found = _described(p.site, volumes)
        if found:
            raise ResourceFailed("; ".join(found))
        sites = p.elsewhere()
        made: dict[str, VolumeKey] = {}
        for volume, key in known.items():
            payload = p.site.keys.payload(key.key_id)
            earlier = previous.get(volume)
            there = dict(earlier.kept) if earlier and earlier.key_id == key.key_id else {}
            name = name_of(p.vnf.vnf, key.key_id)
            there |= {site.name: site.keys.kept(name, payload) for site in sites}
            made[volume] = key.model_copy(update={"kept": there})
        step.result(keys=len(made), sites=", ".join(s.name for s in sites))
    return made


def name_of(vnf: str, key_id: str) -> str:
    """What the copy of a volume's key is named in the key manager of a backup site."""
    return f"antipode:{vnf}:{key_id}"


def is_of(vnf: str, name: str | None) -> bool:
    """Whether a secret of this name is a key that is kept for a VNF."""
    return (name or "").startswith(name_of(vnf, ""))


def problems_at(
    site: Site, keys: Mapping[str, VolumeKey], wanted: Mapping[str, str]
) -> Iterator[str]:
    """One sentence for each thing that a site lacks to bring encrypted volumes back. Cinder itself
    would notice it when the bytes are restored, and not say it.

    Args:
        keys: volume id -> its key and type.
        wanted: volume id -> the name of the volume type that it gets at the site.
    """
    if (why := _without_keys(site)) is not None:
        yield why
        return
    types = {str(t["id"]): str(t["name"]) for t in site.volumes.types()}
    for type_id in sorted({key.type_id for key in keys.values()}):
        of_it = {volume: key for volume, key in keys.items() if key.type_id == type_id}
        what = f"volume type {next(iter(of_it.values())).type_name} ({type_id})"
        if type_id not in types:
            yield (
                f"{site.name} has no volume type with the id of {what}, and Cinder restores an"
                " encrypted volume into a type of the same id only: have it made on a controller of"
                " Cinder there; see docs/concepts/encrypted-volumes.md"
            )
            continue
        other = sorted({wanted[v] for v in of_it} - {types[type_id]})
        if other:
            yield (
                f"{what} is named {types[type_id]} at {site.name}, and {', '.join(other)} is mapped"
                " to: name it in map.volume_types of the VNF file"
            )
        try:
            there = site.volumes.type_encryption(type_id)
        except ApiError as error:
            yield f"{error}; reading the encryption of a volume type takes the role admin"
            continue
        key = next(iter(of_it.values()))
        here = {"provider": key.provider, "cipher": key.cipher, "key_size": key.key_size}
        if there is None or {k: there.get(k) for k in here} != here:
            found = "not encrypted" if there is None else f"encrypted by {_words(there)}"
            yield f"{what} is {found} at {site.name}, and by {_words(here)} where it is from"


def encrypted_types(site: Site, names: Iterable[str]) -> set[str]:
    """Those of these names of volume types whose volumes a site encrypts."""
    wanted = set(names)
    return {
        str(t["name"])
        for t in site.volumes.types()
        if t["name"] in wanted and site.volumes.type_encryption(str(t["id"])) is not None
    }


def _described(site: Site, volumes: Sequence[Volume]) -> tuple[dict[str, VolumeKey], list[str]]:
    """The key of each volume, kept nowhere yet, and why others cannot be had."""
    if (why := _without_keys(site)) is not None:
        return {}, [f"{why}; encrypted are: {', '.join(v.name or v.id for v in volumes)}"]
    types = {str(t["name"]): str(t["id"]) for t in site.volumes.types()}
    found: dict[str, VolumeKey] = {}
    problems: list[str] = []
    for volume in volumes:
        label = f"volume {volume.name or volume.id} is encrypted, and"
        key_id = str((site.volumes.volume(volume.id) or {}).get("encryption_key_id") or NO_KEY)
        type_id = types.get(volume.volume_type)
        if key_id == NO_KEY:
            problems.append(
                f"{label} {site.name} names no key of it: its key is in the configuration of Cinder"
                " (fixed_key) and in no key manager"
            )
            continue
        try:
            encryption = site.volumes.type_encryption(type_id) if type_id else None
            payload = site.keys.payload(key_id)
        except ApiError as error:
            problems.append(
                f"{label} its key or its type cannot be read: {error}. That takes the roles admin"
                " and member in the project of the VNF"
            )
            continue
        if type_id is None or encryption is None or not payload:
            problems.append(
                f"{label} its volume type {volume.volume_type} is not encrypted: it was made"
                " before that was changed; retype the volume"
            )
            continue
        found[volume.id] = VolumeKey(
            key_id=key_id,
            type_id=type_id,
            type_name=volume.volume_type,
            provider=str(encryption["provider"]),
            cipher=encryption.get("cipher"),
            key_size=encryption.get("key_size"),
        )
    return found, problems


def _without_keys(site: Site) -> str | None:
    """Why keys cannot be handled at a site; None if they can."""
    if not site.volumes.shows_keys:
        needed = "{}.{}".format(*SHOWS_KEYS)
        return (
            f"encrypted volumes need Cinder's API {needed} or newer, which names their keys;"
            f" {site.name} has {site.volumes.version}"
        )
    try:
        site.keys.named("antipode")
    except PreflightFailed as error:
        return f"encrypted volumes need a key manager (Barbican): {'; '.join(error.problems)}"
    except SiteUnreachable:
        raise
    except AntipodeError as error:
        return f"the keys of encrypted volumes cannot be handled: {error}"
    return None


def _words(encryption: Mapping[str, object] | Json) -> str:
    return "{provider}, {cipher}, {key_size}".format(
        **{k: encryption.get(k) for k in ("provider", "cipher", "key_size")}
    )
