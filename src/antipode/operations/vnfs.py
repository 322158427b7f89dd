# SPDX-License-Identifier: Apache-2.0
"""Adding the definition of a VNF."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

from antipode import yamlfile
from antipode.config import Config
from antipode.engine.deployment import Deployment
from antipode.errors import InvalidInput, NotFound
from antipode.model.point_v2 import misfits
from antipode.model.vnf import Mapping, Vnf
from antipode.protect import offsite
from antipode.protect.option import wrong_settings


def read_file(path: Path, config: Config) -> Vnf:
    """The definition in a VNF file.

    Raises:
        InvalidInput: the file cannot be read, is wrong, or does not fit the configuration; every
            problem is named with its line and field.
    """
    return yamlfile.read(path, Vnf, lambda vnf: _problems(vnf, config))


def must_fit(vnf: Vnf, config: Config) -> None:
    """See that a definition fits the configuration.

    Raises:
        InvalidInput: it does not; every problem is named with its field.
    """
    if found := list(_problems(vnf, config)):
        words = "; ".join(f"{'.'.join(map(str, place))}: {problem}" for place, problem in found)
        raise InvalidInput(f"VNF {vnf.vnf}: {words}", resource=f"VNF {vnf.vnf}")


def add(deployment: Deployment, vnf: Vnf) -> bool:
    """Keep a definition; whether it is new and did not replace one of the same name.

    Raises:
        InvalidInput: the one that it would replace is of another project.
    """
    known = deployment.vnfs.stored().get(vnf.vnf)
    if isinstance(known, Vnf) and not deployment.config.is_same_project(known.project, vnf.project):
        raise InvalidInput(
            f"VNF {vnf.vnf} is of project {known.project or 'of the sites'} already, where its"
            f" servers and recovery points are; give the VNF in {vnf.project or 'their own'}"
            " another name",
            resource=f"VNF {vnf.vnf}",
        )
    return deployment.vnfs.put(vnf)


def _problems(vnf: Vnf, config: Config) -> Iterator[yamlfile.Problem]:
    known = ", ".join(config.sites)
    for field, sites in (("primary", [vnf.primary]), ("backup", vnf.backup)):
        for site in sites:
            if site not in config.sites:
                yield (field,), f"site {site} is not in the configuration; sites there: {known}"
    for site in vnf.sites:
        there = config.sites[site].projects if site in config.sites else {vnf.project: ""}
        if vnf.project is not None and config.has_projects and vnf.project not in there:
            yield (
                ("project",),
                f"site {site} has no project {vnf.project} in the configuration; projects there:"
                f" {', '.join(map(str, there)) or 'none'}",
            )
    if (problem := offsite.vaults_problem(config, vnf.vnf, vnf.primary, vnf.vaults)) is not None:
        yield ("vaults" if vnf.vaults else "primary",), problem
    if vnf.project is not None and config.api and vnf.project not in config.api.projects:
        yield ("project",), f"{vnf.project} is not among the projects of api in the configuration"
    yield from _wrong_floating_ips(vnf)
    for index, record in enumerate(vnf.dns):
        try:
            zone = config.dns[config.dns_provider(record.provider)].zone
        except NotFound as error:
            yield ("dns", index, "provider"), str(error)
            continue
        if record.name != zone and not record.name.endswith(f".{zone}"):
            yield ("dns", index, "name"), f"{record.name} is not in zone {zone} of the provider"
    for number, step in enumerate(vnf.steps):
        if step.script is not None and step.script.runner not in config.runners:
            known_runners = ", ".join(config.runners) or "none"
            place = ("steps", number, "script", "runner")
            yield (
                place,
                f"runner {step.script.runner} is not in the configuration; runners there:"
                f" {known_runners}",
            )
    yield from wrong_settings(vnf)
    yield from misfits(vnf)


def _wrong_floating_ips(vnf: Vnf) -> Iterator[yamlfile.Problem]:
    """Mistakes in map.floating_ips. They are no mistakes of a recovery point, which would be
    unreadable then: an address that is none is not found at the backup site.
    """
    maps: list[tuple[tuple[str, ...], Mapping]] = [(("map",), vnf.map)]
    maps += [(("maps", site), there) for site, there in vnf.maps.items()]
    for place, there in maps:
        taken: dict[str, str] = {}
        for former, wanted in there.floating_ips.items():
            here = (*place, "floating_ips", former)
            if wrong := [one for one in (former, wanted) if not _is_address(one)]:
                yield here, f"{' and '.join(wrong)} is no IPv4 address in its usual form"
            elif (other := taken.setdefault(wanted, former)) != former:
                yield here, f"{wanted} takes the place of {other} already"


def _is_address(text: str) -> bool:
    try:
        return str(IPv4Address(text)) == text  # as Neutron writes it, and finds it by
    except ValueError:
        return False
