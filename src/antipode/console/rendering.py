# SPDX-License-Identifier: Apache-2.0
"""Pages from templates. All that they show is escaped; characters that hide or steer are shown as
their escapes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from functools import cached_property
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request

from antipode.console import pictures
from antipode.console.words import FILTERS
from antipode.screen import visible

ASSETS = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
THEMES = ("light", "dark")
THEME = "antipode-theme"
"""The cookie with the theme that somebody has chosen."""


class Renderer:
    """The templates and the other files of pages."""

    def __init__(self, root: str) -> None:
        """`root`: the path of the console."""
        self._root = root
        folder = files("antipode.console") / "assets"
        self.assets = {name: (folder / name).read_bytes() for name in ASSETS}

    @cached_property
    def digest(self) -> str:
        """Of all assets; in their addresses, so that browsers may keep them for ever."""
        whole = b"".join(self.assets[name] for name in sorted(self.assets))
        return hashlib.sha256(whole).hexdigest()[:16]

    @cached_property
    def _environment(self) -> Environment:
        environment = Environment(
            loader=PackageLoader("antipode.console", "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_shown,
        )
        environment.filters.update(FILTERS)
        environment.globals.update(
            root=self._root, asset=self._asset, now=time.time, pictures=pictures
        )
        return environment

    def _asset(self, name: str) -> str:
        return f"{self._root}/assets/{self.digest}/{name}"

    def render(self, template: str, request: Request, values: Mapping[str, Any]) -> str:
        """The page that a template makes of values."""
        theme = request.cookies.get(THEME, "")
        found = self._environment.get_template(template)
        return found.render(**values, theme=theme if theme in THEMES else "", path=request.url.path)


def _shown(value: Any) -> Any:
    """A value as a page has it: hostile text is made harmless to eyes, too."""
    if value is None:
        return ""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return escape(visible(value, keep="\n"))
