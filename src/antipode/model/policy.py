# SPDX-License-Identifier: Apache-2.0
"""A policy: how VNFs are protected, made by an administrator and chosen by a project."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from antipode.model.base import Model, Seconds
from antipode.model.vnf import Name, Protection

OF_A_VNF = ("protections", "rpo", "rto", "verify_every", "drill_every")
"""The fields of a VNF's definition that a policy decides."""


class Policy(Model):
    """The protections of VNFs, and the targets that they are measured by."""

    policy: Name
    about: Annotated[str, Field(max_length=500)] = ""
    """for those that choose"""
    projects: list[Name] = []
    """that may choose it; all by default"""
    protections: Annotated[list[Protection], Field(min_length=1, max_length=10)]
    rpo: Annotated[Seconds, Field(ge=60)] | None = None
    rto: Annotated[Seconds, Field(ge=1)] | None = None
    verify_every: Annotated[Seconds, Field(ge=3600)] | None = None
    drill_every: Annotated[Seconds, Field(ge=3600)] | None = None

    @model_validator(mode="after")
    def has_each_option_once(self) -> Self:
        options = [protection.option for protection in self.protections]
        if len(options) != len(set(options)):
            raise ValueError("an option stands twice among the protections")
        return self

    def may_be_chosen_by(self, project: str | None) -> bool:
        """Whether a project may choose it."""
        return not self.projects or project in self.projects

    def decided(self) -> dict[str, Any]:
        """The fields of a VNF's definition as this policy has them."""
        return self.model_dump(mode="json", include=set(OF_A_VNF))
