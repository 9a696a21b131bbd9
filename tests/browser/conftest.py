"""A browser, logged in, that tells what it complained about and what it asked other hosts for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django.live_server_helper import LiveServer
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.clients.conftest import programs

__all__ = ["programs"]

PATIENCE_SECONDS = 10
DESK, PHONE = (1400, 1000), (390, 844)


class Browser:
    """What the tests do with Chromium."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self, path: str) -> None:
        self.driver.get(f"{self.url}{path}")

    def log_in(self, user: User) -> None:
        """As if they had given their password: that takes most of a second of hashing."""
        client = Client()
        client.force_login(user)
        self.open("/")
        self.driver.add_cookie({"name": "sessionid", "value": client.cookies["sessionid"].value})

    def resize(self, size: tuple[int, int]) -> None:
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        """light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def find(self, css: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def wait_for(self, css: str) -> WebElement:
        def shown(_: Any) -> WebElement | None:
            found = self.driver.find_elements(By.CSS_SELECTOR, css)
            return found[0] if found and found[0].is_displayed() else None

        element: Any = self._waiting().until(shown, f"{css} is not shown")
        assert isinstance(element, WebElement)
        return element

    def wait_for_text(self, text: str) -> None:
        shown = ""

        def is_shown(_: Any) -> bool:
            nonlocal shown
            shown = self.text()
            return text in shown

        try:
            self._waiting().until(is_shown)
        except TimeoutException:
            raise AssertionError(f"{text!r} is not shown, but this:\n{shown}") from None

    def _waiting(self) -> WebDriverWait[Chrome]:
        """What is looked at may belong to a page that the next one replaces just then."""
        return WebDriverWait(self.driver, PATIENCE_SECONDS, 0.05, [StaleElementReferenceException])

    def text(self) -> str:
        return str(self.find("body").text)

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        script = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        return int(self.driver.execute_script(script))

    def findings(self, axe: str) -> list[str]:
        """What axe finds wrong with the page, unless it is minor."""
        self.driver.execute_script(axe)
        script = "const done = arguments[0]; axe.run().then(found => done(found.violations))"
        return [
            f"{each['id']} ({each['impact']}): {[node['target'] for node in each['nodes'][:3]]}"
            for each in self.driver.execute_async_script(script)
            if each["impact"] != "minor"
        ]

    def _log(self, name: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self.driver.get_log(name)  # type: ignore[no-untyped-call]
        return entries

    def complaints(self) -> list[str]:
        """Errors and warnings in the console since the last time."""
        return [entry["message"] for entry in self._log("browser") if entry["level"] != "INFO"]

    def foreign_requests(self) -> list[str]:
        """What was asked of other hosts since the last time."""
        found = []
        for entry in self._log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                address = message["params"]["request"]["url"]
                if urlsplit(address).scheme in ("http", "https") and not address.startswith(self.url):
                    found.append(address)
        return found


@pytest.fixture(scope="session")
def driver(django_db_setup: None) -> Iterator[Chrome]:
    """Chromium. It ends before the database is dropped, which its open connections keep in use."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    chromedriver = shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("Chromium and its driver are not installed (Debian: chromium, chromium-driver).")
    options = ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(chromedriver))
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def axe(programs: Path) -> str:
    """The script of axe-core, which looks for what keeps people from using a page."""
    return (programs.parent / "axe-core" / "axe.min.js").read_text()


@pytest.fixture
def browser(driver: Chrome, live_server: LiveServer) -> Browser:
    opened = Browser(driver, live_server.url)
    driver.delete_all_cookies()
    opened.resize(DESK)
    opened.prefer("light")
    opened.complaints()
    opened.foreign_requests()
    return opened


@pytest.fixture
def operator(transactional_db: None) -> User:
    return User.objects.create_superuser("root", password="long enough to be one")


@pytest.fixture
def logged_in(browser: Browser, operator: User) -> Browser:
    browser.log_in(operator)
    return browser
