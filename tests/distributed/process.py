"""What the tests start as an antipode process of some host: the command itself, its sites played by clouds that the test serves."""

from __future__ import annotations

import json
import os
import sys

import servedcloud

from antipode.cli.main import main
from antipode.cloud import site as cloud_site


def connect(name: str, cloud: str) -> cloud_site.Site:
    return servedcloud.connect(name, json.loads(os.environ["TEST_CLOUDS"])[cloud])


if __name__ == "__main__":
    cloud_site.connect = connect  # type: ignore[assignment]
    sys.exit(main(sys.argv[1:]))
