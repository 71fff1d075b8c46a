"""The page of `facecycle demo`, made with Gradio, which is imported only when it is served.

Nothing leaves the computer: the server listens on 127.0.0.1, answers no other host name, and tells the
browser to load nothing from elsewhere. It accepts requests of its own page only, reads no file but those
uploaded to it, and bounds their size and number. Uploads live in a temporary folder that is removed at the
end.
"""

import importlib.util
import os
import pathlib
import signal
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from facecycle_jax.errors import MissingExtraError, UserError

_ADDRESS = "127.0.0.1"
# Seconds between clean-ups, and the age at which uploads and results are removed while the page is open.
_CLEAN_EVERY, _KEEP_FOR = 60, 600
# Bytes of one request, and bytes and number of the files that are kept at a time, uploads and results.
_MAX_REQUEST = 64 << 20
_MAX_KEPT, _MAX_FILES = 512 << 20, 2000
# What the page's own requests are sent to; the server's other doors stay shut.
_OPEN_PATHS = ("/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset")
_OPEN_FOLDER = "/gradio_api/run/"
_TEXT = """# FaceCycle
Two pictures that a face fills. The model removes the motion of each (expression and head pose), then the
identity, and puts both back exchanged.
"""
_PRIVACY = (
    "Runs on this computer only. Pictures are kept in a temporary folder for at most "
    f"{(_KEEP_FOR + _CLEAN_EVERY) // 60} minutes, and are removed when the program ends."
)
# The page's own server and nothing else; Gradio needs inline scripts and styles.
_POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; connect-src 'self' data: blob:; "
    "form-action 'self'; base-uri 'self'; frame-ancestors 'none'"
)


class Shown(Protocol):
    """What the page needs of a result."""

    @property
    def pictures(self) -> dict[str, np.ndarray]:
        """Pictures uint8 [2, S, S, 3] by name."""

    def words(self) -> str:
        """One line of text."""


Compare = Callable[[str | None, str | None, bool], Shown]


def require_gradio() -> None:
    """Raises ImportError, in one sentence, if Gradio is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise MissingExtraError("The demo needs gradio: pip install 'facecycle_jax[demo]'.")


def serve(
    compare: Compare,
    *,
    shown: Sequence[str],
    examples: Callable[[str], list[list[str]]],
    port: int | None,
    browser: bool,
) -> None:
    """Serves the page until SIGINT or SIGTERM, then removes what was uploaded.

    Args:
      compare: `compare(first, second, crop)`, from two picture files to what is shown; ValueError is told
        to the user.
      shown: captions of the pictures, in the order of the result.
      examples: writes pictures into a folder and returns the files of each pair.
      port: of the page, or None for the first free one from 7860 on.
      browser: whether to open the page in the user's browser.

    Raises:
      OSError: if the port is taken.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with tempfile.TemporaryDirectory(prefix="facecycle-demo-") as folder:
        pairs = examples(folder)
        print("Compiling the model", flush=True)
        compare(pairs[0][0], pairs[0][1], False)
        page = build(compare, shown=shown, pairs=pairs, folder=folder)
        try:
            if not stop.is_set():
                _launch(page, port=port, browser=browser, folder=folder)
                print(f"The demo is at {page.local_url}; stop it with Ctrl-C", flush=True)
                stop.wait()
        finally:
            page.close(verbose=False)


def _private(folder: str) -> None:
    """Replaces all that Gradio reads from the environment, before it is imported."""
    for name in list(os.environ):
        if name.startswith("GRADIO_"):
            del os.environ[name]

    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": folder,
        "GRADIO_SHARE": "False",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }

    # A proxy must not be asked for this computer's own address.
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), _ADDRESS]))


def only_uploaded(path: str | None, *, folder: str, name: str) -> str | None:
    """Refuses a path that a request made up, whether or not there is such a file.

    Args:
      path: of the image as the request has it, or None.
      folder: temporary folder of uploads.
      name: of the image, for the message.

    Returns:
      The path.

    Raises:
      UserError: if the file, links resolved, is not below the folder.
    """
    if path is None:
        return None
    inside = pathlib.Path(os.path.realpath(folder))
    if inside not in pathlib.Path(os.path.realpath(path)).parents:
        raise UserError(f"{name} was not uploaded to this page.")
    return path


def build(compare: Compare, *, shown: Sequence[str], pairs: list[list[str]], folder: str) -> Any:
    """Lays out the page.

    Args:
      compare: see `serve`.
      shown: captions of the pictures.
      pairs: files of the examples.
      folder: temporary folder of uploads and results.

    Returns:
      The page, a `gradio.Blocks`.
    """
    _private(folder)
    import gradio as gr

    def picture(label: str, name: str) -> Any:
        sources: Any = ["upload", "webcam", "clipboard"]
        made: Any = gr.Image(
            label=label, sources=sources, elem_id=name, type="filepath", height=280, buttons=[]
        )
        # The file itself: `compare` reads it, and has better words for one that is no picture. Not a
        # subclass, for which Gradio would write a stub file into this package.
        made.preprocess = lambda payload: None if payload is None else payload.path
        return made

    def answer(first: str | None, second: str | None, crop: bool = False) -> list[Any]:
        try:
            first = only_uploaded(first, folder=folder, name="The first image")
            second = only_uploaded(second, folder=folder, name="The second image")
            result = compare(first, second, crop)
        except ValueError as error:
            # In the place of a result, and without the pictures of an earlier one.
            return [f"**{error}**", *[None] * (2 * len(shown))]
        rows = list(result.pictures.values())
        return [result.words(), *(picture[0] for picture in rows), *(picture[1] for picture in rows)]

    with gr.Blocks(
        title="FaceCycle", analytics_enabled=False, delete_cache=(_CLEAN_EVERY, _KEEP_FOR)
    ) as page:
        gr.Markdown(_TEXT)
        with gr.Row():
            inputs = [picture("First face", "first"), picture("Second face", "second")]
        if importlib.util.find_spec("dlib"):
            inputs.append(gr.Checkbox(label="Find the face in the picture first", elem_id="crop"))
        button = gr.Button("Exchange", variant="primary", elem_id="exchange")
        outputs: list[Any] = [gr.Markdown(elem_id="similarity")]
        for place in ("first", "second"):
            gr.Markdown(f"### Of the {place} face")
            with gr.Row():
                for number, caption in enumerate(shown):
                    with gr.Column(min_width=140):
                        gr.Markdown(caption)
                        outputs.append(
                            gr.Image(
                                label=caption,
                                show_label=False,
                                alt_text=f"{caption}, {place} face",
                                interactive=False,
                                format="png",
                                height=190,
                                elem_id=f"{place}_{number}",
                                buttons=["download"],
                            )
                        )
        button.click(answer, inputs, outputs, api_visibility="private", show_progress_on=outputs[0])
        gr.Examples(pairs, inputs[:2], label="Drawn faces to try", cache_examples=False)
        gr.Markdown(_PRIVACY)
    return page


def _launch(page: Any, *, port: int | None, browser: bool, folder: str) -> None:
    """Starts the server in the background."""
    import gradio as gr
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    page.launch(
        server_name=_ADDRESS,
        server_port=port,
        share=False,
        quiet=True,
        show_error=True,
        inbrowser=browser,
        prevent_thread_lock=True,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        num_workers=0,
        # Otherwise the browser keeps every upload and result.
        run_history=False,
        footer_links=[],
        max_file_size=_MAX_REQUEST,
        allowed_paths=[],
        # Fonts that need no download.
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        app_kwargs={
            "middleware": [
                Middleware(TrustedHostMiddleware, allowed_hosts=[_ADDRESS, "localhost"]),
                Middleware(OwnOnly, folder=folder),
            ],
            "docs_url": None,
            "redoc_url": None,
        },
    )


class OwnOnly:
    """Keeps the page to itself: refuses requests of other pages, and what would fill the disk.

    Its answers also carry the policy that keeps browsers from loading anything from elsewhere.
    """

    def __init__(self, app: Any, *, folder: str) -> None:
        """Wraps an ASGI application whose uploads and results are kept in a folder."""
        self._app = app
        self._folder = folder
        # Bytes announced by requests that are being read now.
        self._coming = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Passes a request on, or refuses it."""

        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                policy = [
                    (b"content-security-policy", _POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                ]
                message = {**message, "headers": [*message.get("headers", ()), *policy]}
            await send(message)

        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, with_policy)
            return

        headers = dict(scope["headers"])
        length = _content_length(headers)
        status, reason = self._refusal(scope["path"], headers, length)
        if status:
            await _answer(with_policy, status, reason)
            return

        self._coming += length
        try:
            await self._app(scope, receive, with_policy)
        finally:
            self._coming -= length

    def _refusal(self, path: str, headers: dict[bytes, bytes], length: int) -> tuple[int, str]:
        """Says with which status and words a request is refused; (0, '') where it is not."""
        # Browsers name the page that a request comes from; other pages may not send any.
        if headers.get(b"origin", b"") != b"http://" + headers.get(b"host", b""):
            return 403, "Only the page of this server may send this."
        if path.rstrip("/") not in _OPEN_PATHS and not path.startswith(_OPEN_FOLDER):
            return 404, "There is nothing here."
        if length < 0:
            return 411, "The length of the request is missing."
        if length > _MAX_REQUEST:
            return 413, f"Images may have {_MAX_REQUEST >> 20} MB."

        size, files = _kept(self._folder)
        if size + self._coming + length > _MAX_KEPT or files >= _MAX_FILES:
            return 507, "Too many images are kept; try again in some minutes."
        return 0, ""


def _content_length(headers: dict[bytes, bytes]) -> int:
    """Reads the announced number of bytes of a request's body; -1 where it may be of any length."""
    if b"transfer-encoding" in headers:
        return -1
    text = headers.get(b"content-length", b"")
    return int(text) if text.isdigit() and len(text) < 20 else -1


def _kept(folder: str) -> tuple[int, int]:
    """Adds up the bytes of the files below a folder, and counts them."""
    size = files = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.lstat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                # Cleaned up meanwhile.
                continue
            files += 1
    return size, files


async def _answer(send: Any, status: int, reason: str) -> None:
    """Sends a short answer in words."""
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})
