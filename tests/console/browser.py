# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium that operates the console as a person does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from axe_core_python.selenium import Axe
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select

from tests.console.packages import PACKAGES
from tests.distributed.packages import program

SHOTS = Path(__file__).parents[2] / "build" / "console"
PATIENCE_S = 120.0
LAPTOP, PHONE = (1280, 900), (390, 844)
SERIOUS = ("serious", "critical")


class Browser:
    """One browser with its own cookies."""

    def __init__(self, url: str) -> None:
        self.url = url
        options = webdriver.ChromeOptions()
        options.binary_location = program("chromium", PACKAGES)
        for argument in (
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--no-proxy-server",
            "--disable-background-networking",
            "--disable-component-update",
            "--force-color-profile=srgb",
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options, Service(program("chromedriver", PACKAGES)))
        self.size(*LAPTOP)
        self.faults: list[str] = []

    def size(self, width: int, height: int) -> None:
        """The room that a page has."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def quit(self) -> None:
        self.driver.quit()

    def open(self, path: str) -> None:
        """Open a page of the console."""
        self.driver.get(f"{self.url}/console{path}")
        self._note_faults()

    def _note_faults(self) -> None:
        for line in self.driver.get_log("browser"):
            if line["level"] in ("SEVERE", "WARNING"):
                self.faults.append(f"{self.driver.current_url}: {line['message']}")

    def expected_faults(self, part: str) -> None:
        """Forget what the browser says of answers that are meant to be refusals."""
        self._note_faults()
        self.faults = [fault for fault in self.faults if part not in fault]

    @property
    def path(self) -> str:
        return str(self.driver.current_url).removeprefix(f"{self.url}/console")

    @property
    def text(self) -> str:
        """All that is to be read."""
        return str(self.driver.find_element(By.TAG_NAME, "main").text)

    def find(self, selector: str) -> WebElement:
        """The element of a selector, once it is there."""
        return self.until(
            lambda: next(iter(self.driver.find_elements(By.CSS_SELECTOR, selector)), None), selector
        )

    def until(self, look: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
        """What a look finds, once it finds something."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            try:
                if found := look():
                    return found
            except (StaleElementReferenceException, WebDriverException):
                pass
            time.sleep(0.1)
        self.shot("not-seen")
        raise AssertionError(f"not seen: {what}; the page at {self.path} says:\n{self.text}")

    def reads(self, words: str, patience_s: float = PATIENCE_S) -> None:
        """Wait until the page says something."""
        self.until(lambda: words in self.text, words, patience_s)

    def type(self, selector: str, words: str) -> None:
        """Type into a field, in place of what it has."""
        field = self.find(selector)
        field.clear()
        field.send_keys(words)

    def choose(self, selector: str, value: str) -> None:
        """Choose from a list."""
        Select(self.find(selector)).select_by_value(value)

    def press(self, words: str) -> None:
        """Press the button, or follow the link, with these words."""
        path = (
            f"//main//button[normalize-space()='{words}'] | //main//a[normalize-space()='{words}']"
            f" | //main//summary[normalize-space()='{words}']"
        )

        def pressed() -> bool:
            found = [e for e in self.driver.find_elements(By.XPATH, path) if e.is_displayed()]
            if not found or not found[0].is_enabled():
                return False
            found[0].click()
            return True

        self.until(pressed, f"{words} can be pressed")
        self._note_faults()

    def shot(self, name: str, *, whole: bool = True) -> Path:
        """Keep a picture of the page."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        path = SHOTS / f"{name}.png"
        if whole:
            height = self.driver.execute_script("return document.documentElement.scrollHeight")
            width = self.driver.execute_script("return window.innerWidth")
            self.size(width, min(int(height), 6000))
            self.driver.save_screenshot(str(path))
            self.size(*(LAPTOP if width >= 600 else PHONE))
        else:
            self.driver.save_screenshot(str(path))
        return path

    def barriers(self) -> list[str]:
        """What of the page keeps people out that see or move otherwise, as axe finds it."""
        found = Axe().run(self.driver)
        return [
            f"{self.path}: {one['id']}: {one['help']}: "
            + "; ".join(node["html"][:160] for node in one["nodes"][:3])
            for one in found["violations"]
            if one["impact"] in SERIOUS
        ]

    def weight(self) -> int:
        """The bytes that the page and its files took on the wire."""
        script = """
            return performance.getEntriesByType('resource')
              .concat(performance.getEntriesByType('navigation'))
              .reduce((sum, one) => sum + (one.encodedBodySize || 0) + 300, 0)
        """
        return int(self.driver.execute_script(script))

    def log_in(self, user: str, password: str, site: str = "") -> None:
        """Log in at the form, from whatever page leads there."""
        self.open("/")
        self.type("#user", user)
        self.type("#password", password)
        if site:
            self.choose("#site", site)
        self.press("Log in")
