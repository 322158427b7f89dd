# SPDX-License-Identifier: Apache-2.0
"""Asks a guest of an embedded site whether it answers: `python -m antipode.sandbox.answer DIRECTORY
SITE ADDRESS PORT`; exit code 0 if so.

A program of its own that imports next to nothing, as it is run again and again until a recovered
member answers.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

TIMEOUT_S = 5.0


def ask(url: str, address: str, port: int, path: str = "", timeout_s: float = TIMEOUT_S) -> str:
    """The answer of the guest at an address within `timeout_s` seconds, asked through its site's
    gateway at `url`.

    Raises:
        OSError: it does not answer, or its site does not.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}/guests/{address}/{port}{path}", timeout=timeout_s) as answer:
        text: str = answer.read().decode()
    return text


def main(arguments: list[str]) -> int:
    directory, site, address, port = arguments
    known = json.loads((Path(directory) / site / "site.json").read_text())
    try:
        print(ask(f"http://{known['host']}:{known['port']}", address, int(port)))
    except urllib.error.HTTPError as error:
        print(error.read().decode(errors="replace"), file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{site}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
