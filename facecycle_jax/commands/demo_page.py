"""The page of `facecycle demo`, made with Gradio.

Gradio is imported only when the page is served. Nothing leaves the computer. The server
listens on 127.0.0.1, answers to no other host name, and has the browser load nothing
from elsewhere. It accepts requests of its own page only, reads only files that were
uploaded to it, and bounds their size and number. Uploads live in a temporary folder
that is removed at the end.

A Space on the Hugging Face Hub serves the same page to everybody. Only there the server
listens on all addresses.
"""

import importlib.util
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from facecycle_jax.commands.demo_guard import MAX_REQUEST, OwnOnly, only_uploaded
from facecycle_jax.errors import UserError, check_installed

_ADDRESS = "127.0.0.1"
_ALL_ADDRESSES = "0.0.0.0"
# Seconds between clean-ups while the page is open.
_CLEAN_EVERY = 60
# Seconds after which a clean-up removes uploads and results.
_KEEP_FOR = 600
_TEXT = """# FaceCycle
The model removes the motion of two faces (expression and head pose), then their
identity, and puts both back exchanged.
"""
# The results stand in a grid of columns, one for each kind, both faces in each. All of
# it fits a laptop's screen of 1280 x 720; narrow screens show fewer columns.
_STYLE = """
.gradio-container main { padding: 12px 20px !important; }
#title h1 { margin: 0 0 2px; font-size: 24px; }
#title p, #similarity p { margin: 0; }
#given { gap: 10px; }
#given .examples img { border-radius: 4px; }
#results { display: grid; gap: 10px;
  grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); }
#results .kind { gap: 6px; min-width: 0 !important; }
#results .caption { min-height: 84px; }
#results .caption p { margin: 0; font-size: 13px; line-height: 1.3; }
#results .caption p:first-child { font-weight: 600; font-size: 14px; }
#results [id^="first_"], #results [id^="second_"] { aspect-ratio: 1;
  height: auto !important; min-width: 0 !important; }
@media (max-width: 640px) {
  .gradio-container main { padding: 8px 10px !important; }
  #results .caption { min-height: 54px; }
}
"""
# Largest angle of the sliders, in degrees.
_TURN = 40
# In a Space, the port that the Hub forwards requests to.
_SPACE_PORT = 7860
_KEPT = (
    "Images are kept in a temporary folder for at most "
    f"{(_KEEP_FOR + _CLEAN_EVERY) // 60} minutes, and are removed when the program "
    "ends."
)
_PRIVACY = f"Runs on this computer only. {_KEPT}"
_SPACE_PRIVACY = f"Runs on a server of the Hugging Face Hub. {_KEPT}"


class Shown(Protocol):
    """A result that the page can show."""

    @property
    def images(self) -> dict[str, np.ndarray]:
        """Images uint8 [2, S, S, 3] by name."""

    @property
    def faces(self) -> Any:
        """What the sliders need of the two faces."""

    def words(self) -> str:
        """Returns one line of text."""


Compare = Callable[[str | None, str | None, bool], Shown]
Adjust = Callable[[Any, float, float, float], np.ndarray]


def require_gradio() -> None:
    """Raises MissingExtraError if Gradio is not installed."""
    check_installed("gradio", "The demo needs gradio", extra="demo")


def serve(
    compare: Compare,
    *,
    adjust: Adjust,
    shown: Mapping[str, tuple[str, str]],
    moved: str,
    examples: Callable[[str], list[list[str]]],
    port: int | None,
    browser: bool,
    host: str = "",
) -> None:
    """Serves the page until SIGINT or SIGTERM, then removes what was uploaded.

    Args:
      compare: `compare(first, second, crop)`, from two image files to what is shown.
        The page shows the message of a UserError.
      adjust: `adjust(faces, strength, yaw, pitch)`, from `faces` of a result and the
        sliders to both faces uint8 [2, S, S, 3].
      shown: caption and explanation of each image, by the names of the result and in
        their order.
      moved: name of the image that the sliders draw anew.
      examples: writes images into a folder and returns the files of each pair.
      port: port of the page, or None for the first free one from 7860 on.
      browser: whether to open the page in the user's browser.
      host: name under which a Space is reached, by HTTPS; '' for this computer alone.

    Raises:
      OSError: If the port is taken.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    with tempfile.TemporaryDirectory(prefix="facecycle-demo-") as folder:
        pairs = examples(folder)

        # The first visitor does not wait for the compiler.
        print("Compiling the model", flush=True)
        result = compare(pairs[0][0], pairs[0][1], False)
        adjust(result.faces, 1.0, 10.0, 10.0)

        privacy = _SPACE_PRIVACY if host else _PRIVACY
        page = build(
            compare,
            adjust=adjust,
            shown=shown,
            moved=moved,
            pairs=pairs,
            folder=folder,
            privacy=privacy,
        )
        try:
            if not stop.is_set():
                _launch(page, port=port, browser=browser, folder=folder, host=host)
                address = f"https://{host}" if host else page.local_url
                print(f"The demo is at {address}; stop it with Ctrl-C", flush=True)
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

    # This computer's own address must not go through a proxy.
    for name in ("NO_PROXY", "no_proxy"):
        named = [os.environ.get(name), _ADDRESS, _ALL_ADDRESSES]
        os.environ[name] = ",".join(filter(None, named))


def build(
    compare: Compare,
    *,
    adjust: Adjust,
    shown: Mapping[str, tuple[str, str]],
    moved: str,
    pairs: list[list[str]],
    folder: str,
    privacy: str = _PRIVACY,
) -> Any:
    """Lays out the page.

    Args:
      compare: see `serve`.
      adjust: see `serve`.
      shown: see `serve`.
      moved: see `serve`.
      pairs: files of the examples; the page begins with the first.
      folder: temporary folder of uploads and results.
      privacy: what becomes of the images, for the end of the page.

    Returns:
      The page, a `gradio.Blocks`.
    """
    _private(folder)
    import gradio as gr

    answer = _answering(compare, images=len(shown), folder=folder)
    move = _moving(adjust)

    with gr.Blocks(
        title="FaceCycle",
        analytics_enabled=False,
        delete_cache=(_CLEAN_EVERY, _KEEP_FOR),
    ) as page:
        gr.Markdown(_TEXT, elem_id="title")
        with gr.Row():
            # What the user gives, and what the model gives.
            with gr.Column(scale=1, min_width=290, elem_id="given"):
                inputs, button = _inputs(pairs)
            with gr.Column(scale=3, min_width=320):
                similarity: Any = gr.Markdown(elem_id="similarity")
                images = _results(shown)
                sliders = _sliders()

        # The faces stay in memory for as long as their images stay on disk.
        state = gr.State(None, time_to_live=_KEEP_FOR)
        of_first = [pair[0] for pair in images.values()]
        of_second = [pair[1] for pair in images.values()]
        exchange: dict[str, Any] = {
            "fn": answer,
            "inputs": inputs,
            "outputs": [similarity, *of_first, *of_second, state],
            "api_visibility": "private",
            "show_progress_on": [similarity, *of_first, *of_second],
        }
        redraw: dict[str, Any] = {
            "fn": move,
            "inputs": [state, *sliders],
            "outputs": images[moved],
            "api_visibility": "private",
            "show_progress": "hidden",
        }
        button.click(**exchange).then(**redraw)
        page.load(**exchange).then(**redraw)
        for slider in sliders:
            # While a slider moves, only its newest value is drawn.
            slider.input(**redraw, trigger_mode="always_last")
        gr.Markdown(privacy)

    return page


def _answering(
    compare: Compare, *, images: int, folder: str
) -> Callable[..., list[Any]]:
    """Builds what turns two uploads into a line of text, images of both and `faces`."""

    def answer(first: str | None, second: str | None, crop: bool = False) -> list[Any]:
        try:
            first = only_uploaded(first, folder=folder, name="The first image")
            second = only_uploaded(second, folder=folder, name="The second image")
            result = compare(first, second, crop)
        except (UserError, FileNotFoundError) as error:
            # The message takes the place of the text, and earlier images disappear.
            return [f"**{error}**", *[None] * (2 * images + 1)]

        # The row of the first face, then that of the second.
        pairs = list(result.images.values())
        of_first = [pair[0] for pair in pairs]
        of_second = [pair[1] for pair in pairs]
        return [result.words(), *of_first, *of_second, result.faces]

    return answer


def _moving(adjust: Adjust) -> Callable[..., list[Any]]:
    """Builds what draws both faces anew for the sliders."""

    def move(faces: Any, strength: float, yaw: float, pitch: float) -> list[Any]:
        # Before the first exchange, and after one that failed.
        if faces is None:
            return [None, None]
        first, second = adjust(faces, strength, yaw, pitch)
        return [first, second]

    return move


def _inputs(pairs: list[list[str]]) -> tuple[list[Any], Any]:
    """Makes the inputs of `answer`, the button and the examples.

    Returns the inputs and the button.
    """
    import gradio as gr

    with gr.Row():
        inputs = [
            _image_input("First face", "first", pairs[0][0]),
            _image_input("Second face", "second", pairs[0][1]),
        ]
    if importlib.util.find_spec("dlib"):
        inputs.append(
            gr.Checkbox(
                label="Find the face in the image first",
                elem_id="crop",
                container=False,
            )
        )
    button = gr.Button("Exchange", variant="primary", elem_id="exchange")
    gr.Examples(pairs, inputs[:2], label="Examples", cache_examples=False)
    return inputs, button


def _image_input(label: str, name: str, file: str) -> Any:
    """Makes the place of an image that the user gives."""
    import gradio as gr

    sources: Any = ["upload", "webcam", "clipboard"]
    made: Any = gr.Image(
        file,
        label=label,
        sources=sources,
        elem_id=name,
        type="filepath",
        height=190,
        min_width=130,
        buttons=[],
    )

    # `compare` gets the file itself, because it has better words for a file that is no
    # image. A subclass would make Gradio write a stub file into this package.
    made.preprocess = lambda payload: None if payload is None else payload.path
    return made


def _results(shown: Mapping[str, tuple[str, str]]) -> dict[str, list[Any]]:
    """Makes a column for each kind of image; returns the places of both faces."""
    import gradio as gr

    images = {}
    with gr.Row(elem_id="results"):
        for name, (caption, explanation) in shown.items():
            with gr.Column(min_width=100, elem_classes="kind"):
                gr.Markdown(f"{caption}\n\n{explanation}", elem_classes="caption")
                images[name] = [
                    _image(f"{caption}, {which} face", f"{which}_{name}")
                    for which in ("first", "second")
                ]
    return images


def _image(text: str, name: str) -> Any:
    """Makes the place of an image that the model gives."""
    import gradio as gr

    return gr.Image(
        show_label=False,
        alt_text=text,
        interactive=False,
        format="png",
        min_width=100,
        elem_id=name,
        buttons=["download"],
    )


def _sliders() -> list[Any]:
    """Makes the sliders of strength, yaw and pitch."""
    import gradio as gr

    def slider(
        name: str, about: str, least: float, most: float, value: float, step: float
    ) -> Any:
        return gr.Slider(
            least,
            most,
            value,
            step=step,
            label=name,
            info=about,
            elem_id=name.lower(),
            min_width=140,
        )

    with gr.Row():
        made = [
            slider("Strength", "Of the other's motion", 0, 1.5, 1, step=0.05),
            slider("Yaw", "Degrees to the right", -_TURN, _TURN, 0, step=1),
            slider("Pitch", "Degrees down", -_TURN, _TURN, 0, step=1),
        ]
    return made


def _launch(
    page: Any, *, port: int | None, browser: bool, folder: str, host: str
) -> None:
    """Starts the server in the background."""
    import gradio as gr
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    middleware = [Middleware(OwnOnly, folder=folder, host=host)]
    if not host:
        # Other host names are refused, so that no other page can reach this one by a
        # name of its own that resolves to 127.0.0.1.
        known = [_ADDRESS, "localhost"]
        middleware.insert(0, Middleware(TrustedHostMiddleware, allowed_hosts=known))

    page.launch(
        server_name=_ALL_ADDRESSES if host else _ADDRESS,
        server_port=_SPACE_PORT if host else port,
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
        max_file_size=MAX_REQUEST,
        allowed_paths=[],
        css=_STYLE,
        # Fonts that need no download.
        theme=gr.themes.Default(
            font=["system-ui", "sans-serif"], font_mono=["monospace"]
        ),
        app_kwargs={
            "middleware": middleware,
            "docs_url": None,
            "redoc_url": None,
        },
    )
