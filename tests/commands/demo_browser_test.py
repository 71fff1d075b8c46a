"""The page of `facecycle demo` works in a real browser and requests nothing else.

Needs chromium and its driver (Debian: chromium, chromium-driver), selenium and gradio.
Set FACECYCLE_SCREENSHOTS=FOLDER to keep screenshots of the page.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import urllib.parse

import pytest
import tiny_model
from browser import start_browser

from facecycle_jax.commands import demo, example_faces

ROOT = pathlib.Path(__file__).parents[2]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1500,1500",
]
WAIT = 120

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    given = os.environ.get("FACECYCLE_DEMO_MODEL")
    if given:
        return given
    return tiny_model.write(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def page(model, tmp_path_factory):
    """Starts the demo; yields its address and process."""
    pytest.importorskip("gradio")
    scratch = tmp_path_factory.mktemp("scratch")
    environment = os.environ | {"TMPDIR": str(scratch)}
    command = [
        sys.executable,
        "-m",
        "facecycle_jax.cli",
        "demo",
        "--model",
        model,
        "--no-browser",
    ]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = []
    address = []
    ready = threading.Event()

    def read():
        for line in process.stdout:
            lines.append(line)
            if line.startswith("The demo is at "):
                address.append(line.split()[4].rstrip(";"))
                ready.set()
        ready.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert ready.wait(4 * WAIT), "".join(lines)
        assert address, "".join(lines)
        yield address[0], process, scratch
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = start_browser(FLAGS, tmp_path_factory.mktemp("profile"))
    yield found
    found.quit()


def wait_for(condition, what):
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.3)
    raise AssertionError(f"{what} did not come in {WAIT} s")


def find(browser, selector):
    return browser.find_elements("css selector", selector)


def upload(browser, place, file):
    buttons = f"#{place} button[aria-label='Clear'], #{place} button[title='Clear']"
    clear = find(browser, buttons)
    if clear:
        clear[0].click()

    inputs = wait_for(
        lambda: find(browser, f"#{place} input[type=file]"), "the place for a file"
    )
    inputs[0].send_keys(file)


def keep(browser, name):
    folder = os.environ.get("FACECYCLE_SCREENSHOTS")
    if folder:
        height = browser.execute_script("return document.documentElement.scrollHeight")
        browser.set_window_size(1500, max(1000, min(height + 200, 2600)))
        time.sleep(1)
        browser.save_screenshot(str(pathlib.Path(folder) / f"{name}.png"))


def similarity(browser):
    (line,) = find(browser, "#similarity")
    return line.text


def loaded(browser, place):
    """Says whether every image of a row is there and has pixels."""
    return browser.execute_script(
        "const row = `[id^='${arguments[0]}_'] img`;"
        "const images = [...document.querySelectorAll(row)];"
        "const whole = image => image.complete && image.naturalWidth == 256;"
        "return images.length == arguments[1] && images.every(whole);",
        place,
        len(demo.SHOWN),
    )


def test_the_page_from_loading_to_closing(page, browser, tmp_path):
    address, process, scratch = page
    browser.get(address)
    wait_for(lambda: find(browser, "#exchange"), "the page")
    assert browser.title == "FaceCycle"
    keep(browser, "1_loaded")

    # The page begins with the first example's results.
    wait_for(lambda: "Cosine similarity" in similarity(browser), "the similarities")
    wait_for(
        lambda: loaded(browser, "first") and loaded(browser, "second"), "the images"
    )
    before = similarity(browser)

    *_, (one, two) = example_faces.write_examples(tmp_path)
    upload(browser, "first", one)
    upload(browser, "second", two)
    wait_for(lambda: len(find(browser, "#first img, #second img")) == 2, "the previews")
    find(browser, "#exchange")[0].click()
    wait_for(
        lambda: "Cosine similarity" in similarity(browser) != before,
        "the similarities of other faces",
    )
    wait_for(
        lambda: loaded(browser, "first") and loaded(browser, "second"), "the images"
    )
    keep(browser, "2_result")

    bad = tmp_path / "letter.png"
    bad.write_text("no image")
    upload(browser, "second", str(bad))
    time.sleep(2)
    find(browser, "#exchange")[0].click()
    message = "The second image cannot be read as an image"
    wait_for(
        lambda: message in browser.find_element("css selector", "body").text,
        "the message",
    )
    keep(browser, "3_bad_upload")

    # Every request of the browser went to the page's own server.
    urls = []
    for entry in browser.get_log("performance"):
        event = json.loads(entry["message"])["message"]
        if event["method"] == "Network.requestWillBeSent":
            urls.append(event["params"]["request"]["url"])
        elif event["method"] == "Network.webSocketCreated":
            urls.append(event["params"]["url"])

    # chrome: is the browser's own empty first tab.
    own = ("data:", "blob:", "chrome:")
    hosts = {
        urllib.parse.urlsplit(url).hostname for url in urls if not url.startswith(own)
    }
    assert hosts == {"127.0.0.1"}

    log = browser.get_log("browser")
    assert not [entry["message"] for entry in log if entry["level"] == "SEVERE"]

    # Uploads are in one folder, which is removed when the program ends.
    assert len(list(scratch.glob("facecycle-demo-*/**/*.png"))) > 7
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert not list(scratch.glob("facecycle-demo-*"))
