# SPDX-License-Identifier: Apache-2.0
"""`antipode demo --console`, by its command line: the whole story is there to be played in a
browser, and Ctrl-C ends all of it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from antipode.sandbox.keystone import PASSWORD
from tests.console.browser import Browser
from tests.ports import free_port

pytestmark = pytest.mark.sandbox
ENDS_WITHIN_S = 180.0


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command once it has said where the console is, and that place."""
    port = free_port()
    command = ["demo", "--console", str(port), "--directory", str(tmp_path), "-f", "json"]
    with subprocess.Popen(
        [sys.executable, "-m", "antipode.cli.main", *command],
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith("The console is at "):
                    yield process, f"http://127.0.0.1:{port}"
                    return
            pytest.fail(f"it has ended: {process.wait()}")
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.communicate(timeout=ENDS_WITHIN_S)


def test_the_story_of_the_demo_is_opened_in_the_browser(
    demo: tuple[subprocess.Popen[str], str], tmp_path: Path
) -> None:
    process, url = demo
    browser = Browser(url)
    try:
        browser.log_in("operator", PASSWORD)
        browser.reads("canary")
        browser.open("/vnfs/canary")
        browser.reads("make its first recovery point")
        browser.find("button.primary")
        browser.shot("00-demo")
        assert browser.faults == []
    finally:
        browser.quit()
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=ENDS_WITHIN_S)
    assert process.returncode == 0
    assert json.loads(said)["console"] == f"{url}/console"
    assert not [one for one in started if one.is_running() and one.status() != "zombie"]
    assert not [one for one in psutil.process_iter(["cmdline"]) if _is_of(one, tmp_path)]


def _is_of(process: psutil.Process, directory: Path) -> bool:
    """Whether a process was begun for the sites in a folder."""
    return any(str(directory) in word for word in process.info["cmdline"] or [])
