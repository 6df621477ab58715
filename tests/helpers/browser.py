"""A person at MLflow's pages: Debian's Chromium, driven by Selenium, on loopback alone."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import pytest
from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    NoSuchElementException,
    StaleElementReferenceException,
    TimeoutException,
)
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

SECONDS = 60
"""Longest wait for anything; a page takes two or three on an idle machine."""

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--window-size=1600,1000",
)
NOT_YET = (
    NoSuchElementException,
    StaleElementReferenceException,
    ElementClickInterceptedException,
    ElementNotInteractableException,
)

COLUMN = """
return [...document.querySelectorAll("[role=gridcell]")]
    .filter(cell => cell.getAttribute("col-id") === arguments[0])
    .map(cell => [cell.closest("[role=row]").getAttribute("row-index"), cell.innerText])
"""

Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Person:
    """Someone who reads and clicks, and waits for what is not there yet."""

    driver: webdriver.Chrome
    screenshots: Path

    def wait(self, what: str, look: Callable[[webdriver.Chrome], Literal[False] | Seen]) -> Seen:
        """Wait until `look` gives something true; keep a picture of the page where it does not."""
        wait = WebDriverWait(self.driver, SECONDS, poll_frequency=0.1, ignored_exceptions=NOT_YET)
        try:
            return wait.until(look, f"did not see {what} at {self.driver.current_url}")
        except TimeoutException:
            self.keep("0_not_seen")
            raise

    def go(self, address: str) -> None:
        # Pages of MLflow differ behind the `#` only, and going from one to another would not load anything.
        self.driver.get("about:blank")
        self.driver.get(address)

    def see(self, path: str) -> WebElement:
        """Wait until an element at this XPath is visible."""
        return self.wait(path, lambda driver: _displayed(driver.find_elements(By.XPATH, path)))

    def click(self, path: str) -> None:
        """Click the element at this XPath as soon as it can be."""
        self.wait(f"{path} to click", lambda driver: _click(_displayed(driver.find_elements(By.XPATH, path))))

    def write(self, path: str, text: str) -> None:
        """Type into the field at this XPath."""
        self.see(path).send_keys(text)

    def follow(self, path: str) -> None:
        """Click a link that opens a tab of its own, and go on there."""
        before = set(self.driver.window_handles)
        self.click(path)
        self.driver.switch_to.window(self.wait("a new tab", lambda driver: set(driver.window_handles) - before).pop())

    def column(self, name: str) -> list[str]:
        """Read a column of the table of runs, from top to bottom."""
        cells: list[list[str]] = self.driver.execute_script(COLUMN, name)
        return [text.split("\n")[-1] for _, text in sorted(cells, key=lambda cell: int(cell[0]))]

    def keep(self, name: str) -> None:
        """Keep a picture of the page."""
        self.screenshots.mkdir(parents=True, exist_ok=True)
        assert self.driver.save_screenshot(self.screenshots / f"{name}.png")


@contextmanager
def chromium(profile: Path, screenshots: Path) -> Iterator[Person]:
    """Start Chromium with a fresh profile."""
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    for name, path in programs.items():
        if path is None:
            pytest.fail(f"{name} is missing; `make test` installs the Debian packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(programs["chromium"])
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, Service(str(programs["chromedriver"])))
    try:
        yield Person(driver, screenshots)
    finally:
        driver.quit()


def _displayed(elements: list[WebElement]) -> WebElement | Literal[False]:
    return next((element for element in elements if element.is_displayed()), False)


def _click(element: WebElement | Literal[False]) -> bool:
    if element:
        element.click()
    return bool(element)
