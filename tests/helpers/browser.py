"""A headless browser for tests of pages."""

import shutil

import pytest


def start_browser(flags, profile):
    """Starts Chromium; the test is skipped where it or selenium is not installed.

    Args:
      flags: of the command line.
      profile: folder for its files.

    Returns:
      selenium's driver, which the caller quits.
    """
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium and chromedriver are not installed")

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*flags, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    logs = {"performance": "ALL", "browser": "ALL"}
    options.set_capability("goog:loggingPrefs", logs)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
