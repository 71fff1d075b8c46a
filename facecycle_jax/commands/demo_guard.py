"""Guards of the page of `facecycle demo`, which refuse other pages and other files.

They are an ASGI middleware and a check of paths. Neither needs Gradio.
"""

import os
import pathlib
from typing import Any

from facecycle_jax.errors import UserError

# Bytes of one request.
MAX_REQUEST = 64 << 20
# Bytes and number of the files that are kept at a time, uploads and results.
MAX_KEPT = 512 << 20
MAX_FILES = 2000
# Paths that the page's own requests use. All others of the server are refused.
_OPEN_PATHS = (
    "/gradio_api/upload",
    "/gradio_api/queue/join",
    "/gradio_api/cancel",
    "/gradio_api/reset",
)
_OPEN_FOLDER = "/gradio_api/run/"
# Only the page's own server; Gradio needs inline scripts and styles. Who may show the
# page inside one of theirs follows.
_POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
    "connect-src 'self' data: blob:; "
    "form-action 'self'; base-uri 'self'; frame-ancestors "
)
# A Space is a page inside one of the Hub's.
_SPACE_FRAMES = "https://huggingface.co"


def only_uploaded(path: str | None, *, folder: str, name: str) -> str | None:
    """Refuses a path that a request made up, whether or not there is such a file.

    Args:
      path: path of the image in the request, or None.
      folder: temporary folder of uploads.
      name: name of the image, for the message.

    Returns:
      The path.

    Raises:
      UserError: If the file, with links resolved, is not below the folder.
    """
    if path is None:
        return None

    inside = pathlib.Path(os.path.realpath(folder))
    if inside not in pathlib.Path(os.path.realpath(path)).parents:
        raise UserError(f"{name} was not uploaded to this page.")

    return path


class OwnOnly:
    """An ASGI middleware that serves the page's own requests only.

    It refuses requests of other pages and uploads that would fill the disk. Its
    answers carry a policy that keeps browsers from loading anything from elsewhere.
    """

    def __init__(self, app: Any, *, folder: str, host: str = "") -> None:
        """Wraps an ASGI application whose uploads and results are kept in a folder.

        `host` is the name under which a Space is reached, by HTTPS; '' for a page on
        this computer.
        """
        self._app = app
        self._folder = folder
        self._own = f"https://{host}".encode() if host else b""
        self._policy = _POLICY + (_SPACE_FRAMES if host else "'none'")
        # Bytes announced by requests that are being read at the moment.
        self._coming = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Passes a request on, or refuses it."""

        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                policy = [
                    (b"content-security-policy", self._policy.encode()),
                    (b"referrer-policy", b"no-referrer"),
                ]
                message = {**message, "headers": [*message.get("headers", ()), *policy]}
            await send(message)

        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, with_policy)
            return

        # Everything but GET and HEAD may write.
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

    def _refusal(
        self, path: str, headers: dict[bytes, bytes], length: int
    ) -> tuple[int, str]:
        """Returns the status and words of a refusal, or (0, '') for none."""
        # Browsers name the page that a request comes from. Other pages may send none.
        own = self._own or b"http://" + headers.get(b"host", b"")
        if headers.get(b"origin", b"") != own:
            return 403, "Only the page of this server may send this."
        if path.rstrip("/") not in _OPEN_PATHS and not path.startswith(_OPEN_FOLDER):
            return 404, "There is nothing here."
        if length < 0:
            return 411, "The length of the request is missing."
        if length > MAX_REQUEST:
            return 413, f"Images may have {MAX_REQUEST >> 20} MB."

        # Requests that arrive together count together.
        size, files = _kept(self._folder)
        if size + self._coming + length > MAX_KEPT or files >= MAX_FILES:
            return 507, "Too many images are kept; try again in some minutes."
        return 0, ""


def _content_length(headers: dict[bytes, bytes]) -> int:
    """Returns the announced bytes of a request's body, or -1 if it states none."""
    if b"transfer-encoding" in headers:
        return -1

    text = headers.get(b"content-length", b"")
    return int(text) if text.isdigit() and len(text) < 20 else -1


def _kept(folder: str) -> tuple[int, int]:
    """Adds up the bytes of the files below a folder, and counts them."""
    size = 0
    files = 0

    for directory, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.lstat(os.path.join(directory, name)).st_size
            except FileNotFoundError:
                # Removed in the meantime.
                continue
            files += 1

    return size, files


async def _answer(send: Any, status: int, reason: str) -> None:
    """Sends a short answer as plain text."""
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})
