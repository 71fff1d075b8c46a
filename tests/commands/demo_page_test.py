"""The page of `facecycle demo` refuses requests of other programs and pages."""

import asyncio
import http.client
import json
import os
import pathlib
import subprocess
import sys
import threading
import urllib.parse

import numpy as np
import pytest
from PIL import Image

from facecycle_jax.commands import demo_guard, demo_page
from facecycle_jax.errors import UserError

# Serves the page with a function in place of a model: it states the first image's size.
SERVE = """
import sys
import numpy as np
from PIL import Image
from facecycle_jax.commands import demo_page

class Result:
    def __init__(self, first):
        self.text = f"size {Image.open(first).size}"
        self.images = {"input": np.zeros((2, 8, 8, 3), np.uint8)}
        self.faces = 7
    def words(self):
        return self.text

def examples(folder):
    Image.new("RGB", (16, 16)).save(f"{folder}/one.png")
    return [[f"{folder}/one.png", f"{folder}/one.png"]]

demo_page.serve(
    lambda first, second, crop: Result(first),
    adjust=lambda faces, *sliders: np.full((2, 8, 8, 3), faces, np.uint8),
    shown={"input": ("Input", "What the model sees.")}, moved="input",
    examples=examples, port=None, browser=False,
)
"""
HOST = "127.0.0.1:7860"


def asgi(folder, method, path, headers):
    """Returns the status of a request to a guarded application that answers 200."""

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path}
    scope["headers"] = [
        (name.encode(), value.encode()) for name, value in headers.items()
    ]
    asyncio.run(demo_guard.OwnOnly(application, folder=str(folder))(scope, None, send))
    assert b"content-security-policy" in dict(sent[0]["headers"])
    return sent[0]["status"]


@pytest.mark.parametrize(
    "path", ["/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/run/predict"]
)
def test_only_the_own_page_may_send_requests(tmp_path, path):
    own = {"host": HOST, "origin": f"http://{HOST}", "content-length": "10"}
    assert asgi(tmp_path, "POST", path, own) == 200

    for origin in (
        "http://evil.example",
        "null",
        "http://127.0.0.1:7861",
        f"https://{HOST}",
    ):
        assert asgi(tmp_path, "POST", path, {**own, "origin": origin}) == 403

    del own["origin"]
    assert asgi(tmp_path, "POST", path, own) == 403
    assert asgi(tmp_path, "GET", "/", {"host": HOST}) == 200


def test_a_space_accepts_its_own_page_by_https_and_may_be_framed_by_the_hub(tmp_path):
    sent = []

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    space = demo_guard.OwnOnly(application, folder=str(tmp_path), host="a.hf.space")
    for origin in (b"https://a.hf.space", b"https://b.hf.space", b"http://a.hf.space"):
        headers = [
            (b"host", b"10.0.0.1"),
            (b"origin", origin),
            (b"content-length", b"1"),
        ]
        scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload"}
        asyncio.run(space(scope | {"headers": headers}, None, send))

    starts = [message for message in sent if "status" in message]
    assert [message["status"] for message in starts] == [200, 403, 403]
    policy = dict(starts[0]["headers"])[b"content-security-policy"]
    assert policy.endswith(b"frame-ancestors https://huggingface.co")


def test_other_paths_of_the_server_are_refused(tmp_path):
    own = {"host": HOST, "origin": f"http://{HOST}", "content-length": "10"}
    for path in ("/gradio_api/process_recording", "/gradio_api/call/answer", "/login"):
        assert asgi(tmp_path, "POST", path, own) == 404


def test_uploads_are_bounded(tmp_path, monkeypatch):
    own = {"host": HOST, "origin": f"http://{HOST}"}

    def status(**headers):
        return asgi(tmp_path, "POST", "/gradio_api/upload", own | headers)

    monkeypatch.setattr(demo_guard, "MAX_REQUEST", 1000)
    monkeypatch.setattr(demo_guard, "MAX_KEPT", 2000)
    monkeypatch.setattr(demo_guard, "MAX_FILES", 3)

    assert status() == 411
    assert status(**{"content-length": "10", "transfer-encoding": "chunked"}) == 411
    assert status(**{"content-length": "1001"}) == 413
    assert status(**{"content-length": "1000"}) == 200

    # Files that are kept count too.
    (tmp_path / "upload").write_bytes(bytes(1500))
    assert status(**{"content-length": "1000"}) == 507
    assert status(**{"content-length": "400"}) == 200
    for name in ("a", "b"):
        (tmp_path / name).touch()
    assert status(**{"content-length": "10"}) == 507


def test_uploads_that_come_at_once_are_bounded_together(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_guard, "MAX_KEPT", 1500)
    headers = {"host": HOST, "origin": f"http://{HOST}", "content-length": "1000"}
    scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload"}
    scope["headers"] = [
        (name.encode(), value.encode()) for name, value in headers.items()
    ]
    statuses = []

    async def both():
        first_may_end = asyncio.Event()

        async def application(scope, receive, send):
            await first_may_end.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        async def send(message):
            if "status" in message:
                statuses.append(message["status"])

        guard = demo_guard.OwnOnly(application, folder=str(tmp_path))
        first = asyncio.create_task(guard(scope, None, send))
        await asyncio.sleep(0)
        await guard(scope, None, send)
        first_may_end.set()
        await first
        await guard(scope, None, send)

    asyncio.run(both())
    assert statuses == [507, 200, 200]


def test_paths_outside_the_folder_of_uploads_are_refused_alike(tmp_path):
    folder = tmp_path / "uploads"
    folder.mkdir()
    inside = folder / "face.png"
    inside.touch()
    (tmp_path / "private.png").touch()
    (folder / "link.png").symlink_to(tmp_path / "private.png")

    def words(path):
        with pytest.raises(UserError) as info:
            demo_guard.only_uploaded(
                str(path), folder=str(folder), name="The first image"
            )
        return str(info.value)

    accepted = demo_guard.only_uploaded(str(inside), folder=str(folder), name="It")
    assert accepted == str(inside)
    assert demo_guard.only_uploaded(None, folder=str(folder), name="It") is None

    # A file, a missing file, a folder, a link and a path with dots all get the same
    # answer.
    paths = [
        "private.png",
        "nothing.png",
        ".",
        "uploads",
        "uploads/link.png",
        "uploads/../private.png",
    ]
    assert {words(tmp_path / path) for path in paths} == {
        "The first image was not uploaded to this page."
    }


def test_gradio_settings_of_the_environment_are_ignored(monkeypatch, tmp_path):
    monkeypatch.setattr(
        os,
        "environ",
        {"GRADIO_ALLOWED_PATHS": "/etc", "GRADIO_SHARE": "True", "HOME": "/x"},
    )
    demo_page._private(str(tmp_path))
    assert "GRADIO_ALLOWED_PATHS" not in os.environ
    assert os.environ["GRADIO_SHARE"] == "False"
    assert os.environ["GRADIO_TEMP_DIR"] == str(tmp_path)
    assert os.environ["HOME"] == "/x"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Starts the page, with settings in the environment that would open it.

    Yields 'host:port'.
    """
    pytest.importorskip("gradio")
    environment = os.environ | {
        "GRADIO_ALLOWED_PATHS": "/etc",
        "GRADIO_SERVER_NAME": "0.0.0.0",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE],
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
                address.append(
                    urllib.parse.urlsplit(line.split()[4].rstrip(";")).netloc
                )
                ready.set()
        ready.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert ready.wait(300), "".join(lines)
        assert address, "".join(lines)
        yield address[0]
    finally:
        process.terminate()
        process.wait()
        reader.join()
        process.stdout.close()


def request(server, method, path, body=None, **headers):
    connection = http.client.HTTPConnection(server, timeout=60)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read().decode()
    connection.close()
    return answer.status, content


def upload(server, file, origin):
    body = (
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="face.png"\r\n'
        b"Content-Type: image/png\r\n\r\n" + file.read_bytes() + b"\r\n--x--\r\n"
    )
    kind = "multipart/form-data; boundary=x"
    return request(
        server,
        "POST",
        "/gradio_api/upload",
        body,
        Origin=origin,
        **{"Content-Type": kind},
    )


def exchange(server, paths):
    """Returns the page's answer to two paths, requested as by its own script."""
    _, config = request(server, "GET", "/config")

    # The one function behind the button.
    clicked = []
    for dependency in json.loads(config)["dependencies"]:
        events = [target[1] for target in dependency["targets"]]
        if "click" in events and dependency["queue"]:
            clicked.append(dependency)
    (chosen,) = clicked

    # Two files, and an unset checkbox where dlib is installed.
    data = [{"path": path, "orig_name": "x.png"} for path in paths]
    data += [False] * (len(chosen["inputs"]) - 2)
    body = json.dumps({"data": data, "fn_index": chosen["id"], "session_hash": "s"})
    headers = {"Content-Type": "application/json", "Origin": f"http://{server}"}
    status, content = request(server, "POST", "/gradio_api/queue/join", body, **headers)
    assert status == 200, content

    status, content = request(server, "GET", "/gradio_api/queue/data?session_hash=s")
    assert status == 200
    return content


@pytest.mark.slow
def test_the_page_answers_for_its_own_uploads_only(server, tmp_path):
    private = tmp_path / "private.png"
    Image.fromarray(np.zeros((23, 23, 3), np.uint8)).save(private)
    refused = "was not uploaded to this page"
    for path in (str(private), "/etc/passwd", str(tmp_path / "nothing.png")):
        answer = exchange(server, [path, path])
        assert refused in answer
        assert "size (" not in answer

    status, content = upload(server, private, f"http://{server}")
    assert status == 200
    (path,) = json.loads(content)
    assert "size (23, 23)" in exchange(server, [path, path])


@pytest.mark.slow
def test_another_page_cannot_upload_and_settings_open_nothing(server, tmp_path):
    image = tmp_path / "face.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(image)
    assert upload(server, image, "http://evil.example")[0] == 403
    assert request(server, "GET", "/gradio_api/file=/etc/hostname")[0] in (403, 404)
    assert request(server, "GET", "/", Host="evil.example")[0] == 400
    assert server.startswith("127.0.0.1:")


@pytest.mark.slow
def test_gradio_leaves_no_stub_files_in_the_package(server):
    # It writes them next to subclasses of its components, where they are defined.
    assert request(server, "GET", "/config")[0] == 200
    assert not list(pathlib.Path(demo_page.__file__).parent.glob("*.pyi"))


def test_a_mistake_is_shown_and_a_defect_is_not(tmp_path):
    def fail(error):
        def exchange(first, second, crop):
            raise error

        return demo_page._answering(exchange, images=1, folder=str(tmp_path))

    image = tmp_path / "a.png"
    image.touch()
    shown = fail(UserError("no face"))(str(image), str(image))
    assert shown == ["**no face**", None, None, None]
    with pytest.raises(ValueError, match="a defect"):
        fail(ValueError("a defect"))(str(image), str(image))
