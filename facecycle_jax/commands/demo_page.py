"""The page of `facecycle demo`, made with Gradio, which is imported only when it is served.

Nothing leaves the computer: the server listens on 127.0.0.1, answers no other host
name, and tells the browser to load nothing from elsewhere. It accepts requests of its
own page only, reads no file but those uploaded to it, and bounds their size and number.
Uploads live in a temporary folder that is removed at the end.
"""

import importlib.util
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from facecycle_jax.commands.demo_guard import MAX_REQUEST, OwnOnly, only_uploaded
from facecycle_jax.errors import MissingExtraError

_ADDRESS = "127.0.0.1"
# Seconds between clean-ups, and the age at which uploads and results are removed while
# the page is open.
_CLEAN_EVERY, _KEEP_FOR = 60, 600
_TEXT = """# FaceCycle
Two pictures that a face fills. The model removes the motion of each (expression and head pose), then the
identity, and puts both back exchanged.
"""
_PRIVACY = (
    "Runs on this computer only. Pictures are kept in a temporary folder for at most "
    f"{(_KEEP_FOR + _CLEAN_EVERY) // 60} minutes, and are removed when the program ends."
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
        raise MissingExtraError(
            "The demo needs gradio: pip install 'facecycle_jax[demo]'."
        )


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
      compare: `compare(first, second, crop)`, from two picture files to what is shown;
        ValueError is told to the user.
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
                print(
                    f"The demo is at {page.local_url}; stop it with Ctrl-C", flush=True
                )
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


def build(
    compare: Compare, *, shown: Sequence[str], pairs: list[list[str]], folder: str
) -> Any:
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
            label=label,
            sources=sources,
            elem_id=name,
            type="filepath",
            height=280,
            buttons=[],
        )
        # The file itself: `compare` reads it, and has better words for one that is no
        # picture. Not a subclass, for which Gradio would write a stub file into this
        # package.
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
        return [
            result.words(),
            *(picture[0] for picture in rows),
            *(picture[1] for picture in rows),
        ]

    with gr.Blocks(
        title="FaceCycle",
        analytics_enabled=False,
        delete_cache=(_CLEAN_EVERY, _KEEP_FOR),
    ) as page:
        gr.Markdown(_TEXT)
        with gr.Row():
            inputs = [picture("First face", "first"), picture("Second face", "second")]
        if importlib.util.find_spec("dlib"):
            inputs.append(
                gr.Checkbox(label="Find the face in the picture first", elem_id="crop")
            )
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
        button.click(
            answer,
            inputs,
            outputs,
            api_visibility="private",
            show_progress_on=outputs[0],
        )
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
        max_file_size=MAX_REQUEST,
        allowed_paths=[],
        # Fonts that need no download.
        theme=gr.themes.Default(
            font=["system-ui", "sans-serif"], font_mono=["monospace"]
        ),
        app_kwargs={
            "middleware": [
                Middleware(
                    TrustedHostMiddleware, allowed_hosts=[_ADDRESS, "localhost"]
                ),
                Middleware(OwnOnly, folder=folder),
            ],
            "docs_url": None,
            "redoc_url": None,
        },
    )
