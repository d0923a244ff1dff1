"""Pages in headless Chromium."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


class Browser:
    """A page in Chromium: loaded from a file, operated, and asked."""

    def __init__(self, driver: Any):
        self.driver = driver

    def open(self, path: Path, width: int = 1400, height: int = 1000, scheme: str = "light") -> None:
        """Load a page at a width of the window, in a colour scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        self.driver.get(path.resolve().as_uri())

    def messages(self) -> list[str]:
        """What the page has written to the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def ask(self, script: str, *arguments: object) -> Any:
        """The value of an expression. arguments: as a[0], a[1], ... in it."""
        return self.driver.execute_script(f"const a = arguments; return {script}", *arguments)

    def set(self, selector: str, value: object) -> None:
        """Give an input or a list of choices a value, as a user does."""
        script = "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
        script += "for (const name of ['input', 'change']) e.dispatchEvent(new Event(name, {bubbles: true}));"
        self.driver.execute_script(script, selector, str(value))

    def click(self, selector: str) -> None:
        self.driver.execute_script("document.querySelector(arguments[0]).click()", selector)

    def count(self, selector: str) -> int:
        """The number of elements."""
        return self.ask("document.querySelectorAll(a[0]).length", selector)

    def wait_for(self, script: str) -> None:
        """Wait until an expression is true."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 20).until(lambda driver: self.ask(script), script)


@contextlib.contextmanager
def started_browser() -> Iterator[Browser]:
    """Debian's Chromium. The test is skipped where it, its driver or Selenium is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs Selenium (pip install selenium)")
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if not all(programs.values()):
        pytest.skip("needs Chromium and its driver (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(programs["chromedriver"]))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
