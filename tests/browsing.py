"""Headless Chromium for tests. BUDGETCTL_BROWSER names the browser; where it is set nothing is skipped."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WANTED = os.environ.get("BUDGETCTL_BROWSER")


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a browser; skip the test where there is none, and none was named."""
    pytest.importorskip("selenium", reason="selenium is not installed")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    binary = next((path for name in ([WANTED] if WANTED else NAMES) if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        missing = "chromedriver" if binary else WANTED or "Chromium"
        if WANTED:
            pytest.fail(f"BUDGETCTL_BROWSER={WANTED}: {missing} was not found")
        pytest.skip(f"no {missing} was found; make test-browser insists on it")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield found
    finally:
        found.quit()


def wait_for(condition: Callable[[], Any], *, seconds: float = 20.0) -> Any:
    """Return what a condition comes to once it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)
    return found
