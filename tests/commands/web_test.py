"""`facecycle export --format web`: the page's files, and the page in a browser.

The test in a browser needs chromium and its driver, selenium, the extra `onnx`, and
FACECYCLE_ONNXRUNTIME_WEB=FOLDER, the folder in which `npm install onnxruntime-web` was
run. Set FACECYCLE_SCREENSHOTS=FOLDER to keep screenshots.
"""

import base64
import functools
import hashlib
import http.server
import json
import os
import pathlib
import re
import threading
import time
import urllib.parse

import fake_bucket
import pytest
import tiny_model
from browser import start_browser
from etils import epath

from facecycle_jax import FaceCycle, cli
from facecycle_jax.commands import exported, web
from facecycle_jax.errors import UserError

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,900")
WAIT = 90


@pytest.fixture(scope="module")
def model():
    info = {"licence": "CC0", "source": "random numbers"}
    return FaceCycle(tiny_model.trees(), model=tiny_model.MODEL, info=info)


@pytest.fixture
def runtime(tmp_path):
    """A folder with files of the runtime's names, as npm lays it out."""
    place = tmp_path / "app/node_modules/onnxruntime-web/dist"
    place.mkdir(parents=True)
    (place / "ort.wasm.bundle.min.mjs").write_text("export {};")
    (place / "ort-wasm-simd-threaded.wasm").write_bytes(b"\0asm")
    return tmp_path / "app"


def write(model, folder, runtime, monkeypatch):
    """Writes a page whose programs are not programs; returns its settings."""
    folder = epath.Path(folder)
    monkeypatch.setattr(web, "to_onnx", lambda *given, outputs, weights: b"program")
    monkeypatch.setattr(web, "_check", lambda model, programs: None)
    about = exported._about(model)
    web.write_page(model, folder, runtime=web.find_runtime(runtime), about=about)
    return json.loads((folder / "settings.json").read_text())


def policy(folder):
    text = (folder / "index.html").read_text()
    assert "@" not in re.sub(r"onnxruntime-web@[\d.]+", "", text)
    return re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]


def test_a_page_with_its_runtime_holds_all_that_it_loads(
    model, runtime, tmp_path, monkeypatch
):
    folder = tmp_path / "page"
    settings = write(model, folder, str(runtime), monkeypatch)
    assert "connect-src 'self';" in policy(folder)
    assert "http" not in policy(folder)
    assert 'content="runtime/"' in (folder / "index.html").read_text()

    files = {
        **{f"runtime/{file['name']}": file for file in settings["runtime"].values()},
        **{file["name"]: file for file in settings["programs"].values()},
    }
    assert len(files) == 4
    for name, file in files.items():
        content = (folder / name).read_bytes()
        digest = base64.b64encode(hashlib.sha384(content).digest()).decode()
        assert file["integrity"] == f"sha384-{digest}"
        assert file["bytes"] == len(content)

    assert settings["size"] == 64
    assert settings["framing"] == {"left_eye": [0.36, 0.41], "right_eye": [0.64, 0.41]}
    assert settings["licence"] == "CC0"
    for name in [name for pair in settings["examples"] for name in pair]:
        assert (folder / name).is_file()


def test_a_page_in_a_bucket_holds_its_runtime_in_a_folder(
    model, runtime, tmp_path, monkeypatch
):
    with fake_bucket.bucket(tmp_path):
        settings = write(model, "gs://b/page", str(runtime), monkeypatch)

    page = tmp_path / "b/page"
    assert (page / "index.html").is_file()
    for file in settings["programs"].values():
        assert (page / file["name"]).read_bytes() == b"program"
    for file in settings["runtime"].values():
        (source,) = runtime.rglob(file["name"])
        assert (page / "runtime" / file["name"]).read_bytes() == source.read_bytes()


def test_a_page_without_its_runtime_may_load_that_alone_from_elsewhere(
    model, tmp_path, monkeypatch
):
    settings = write(model, tmp_path / "page", None, monkeypatch)
    assert not (tmp_path / "page/runtime").exists()

    found = re.search(r"connect-src 'self' (\S+);", policy(tmp_path / "page"))
    assert re.fullmatch(r"https://\S+/onnxruntime-web@[\d.]+/dist/", found[1])
    for file in settings["runtime"].values():
        assert len(base64.b64decode(file["integrity"].removeprefix("sha384-"))) == 48


def test_a_folder_without_the_runtime_is_refused_before_the_model_is_loaded(
    tmp_path, monkeypatch, capsys
):
    with pytest.raises(UserError, match=r"holds no onnxruntime-web: give the folder"):
        web.find_runtime(str(tmp_path))

    monkeypatch.setattr(exported, "require_onnx", lambda: None)
    given = ("--format", "web", "--out", tmp_path / "p", "--with-runtime", tmp_path)
    assert cli.main(["export", "no_such_model", *map(str, given)]) == 2
    assert "holds no onnxruntime-web" in capsys.readouterr().err


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server that writes no log."""

    def log_message(self, *given):
        pass


@pytest.fixture(scope="module")
def address(model, tmp_path_factory):
    """Writes a page with its runtime and serves it."""
    runtime = os.environ.get("FACECYCLE_ONNXRUNTIME_WEB")
    if not runtime:
        pytest.skip("FACECYCLE_ONNXRUNTIME_WEB names no folder")
    pytest.importorskip("jax2onnx", reason="needs the extra `onnx`")

    folder = tmp_path_factory.mktemp("pages") / "page"
    found = web.find_runtime(runtime)
    web.write_page(model, folder, runtime=found, about=exported._about(model))

    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = start_browser(FLAGS, tmp_path_factory.mktemp("profile"))
    yield found
    found.quit()


def drawn(browser, after=0):
    """Waits until the page has drawn both faces anew; returns how often it has."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        count = browser.execute_script("return Number(document.body.dataset.drawn)")
        if count and count > after:
            return count
        time.sleep(0.1)
    status = browser.find_element("id", "status").text
    raise AssertionError(f"nothing was drawn in {WAIT} s: {status}")


def pixels(browser, name):
    """The drawn image of the first face, as text."""
    return browser.execute_script(
        "return document.querySelector(arguments[0]).toDataURL()", f"canvas.{name}"
    )


def set_strength(browser, value):
    browser.execute_script(
        "const slider = document.getElementById('strength');"
        "slider.value = arguments[0];"
        "slider.dispatchEvent(new Event('input'));",
        value,
    )


@pytest.mark.slow
def test_the_page_runs_the_model_in_a_browser_and_sends_nothing(
    address, browser, tmp_path
):
    browser.get(address)
    count = drawn(browser)
    size = browser.execute_script("return document.querySelector('canvas.moved').width")
    assert size == 64

    # Less of the other's motion gives another image, and the neutral face stays.
    moved = pixels(browser, "moved")
    neutral = pixels(browser, "neutral")
    set_strength(browser, 0)
    count = drawn(browser, after=count)
    assert pixels(browser, "moved") != moved
    assert pixels(browser, "neutral") == neutral

    # An arrow key moves the marker of an eye, and with it the framing.
    marker = browser.find_element("css selector", ".eye")
    marker.send_keys("\ue012")
    count = drawn(browser, after=count)
    assert pixels(browser, "neutral") != neutral

    # A file that is not an image is named.
    bad = tmp_path / "letter.png"
    bad.write_text("no image")
    browser.find_element("css selector", "input[type=file]").send_keys(str(bad))
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        text = browser.find_element("id", "status").text
        if "letter.png" in text:
            break
        time.sleep(0.1)
    assert text == "letter.png cannot be read as an image."

    folder = os.environ.get("FACECYCLE_SCREENSHOTS")
    if folder:
        browser.save_screenshot(str(pathlib.Path(folder) / "web.png"))

    # All requests read files of the page's own server.
    requests = []
    for entry in browser.get_log("performance"):
        event = json.loads(entry["message"])["message"]
        if event["method"] == "Network.requestWillBeSent":
            requests.append(event["params"]["request"])
    own = ("data:", "blob:", "chrome:")
    outside = [one for one in requests if not one["url"].startswith(own)]
    assert {one["method"] for one in outside} == {"GET"}
    hosts = {urllib.parse.urlsplit(one["url"]).hostname for one in outside}
    assert hosts == {"127.0.0.1"}
    log = browser.get_log("browser")
    assert not [entry["message"] for entry in log if entry["level"] == "SEVERE"]
