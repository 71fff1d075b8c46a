"""What keeps the page of `facecycle demo` to itself.

Other pages and other files are refused.

An ASGI middleware and a check of paths; Gradio is not needed for either.
"""

import os
import pathlib
from typing import Any

from facecycle_jax.errors import UserError

# Bytes of one request, and bytes and number of the files that are kept at a time,
# uploads and results.
MAX_REQUEST = 64 << 20
MAX_KEPT, MAX_FILES = 512 << 20, 2000
# What the page's own requests are sent to; the server's other doors stay shut.
_OPEN_PATHS = (
    "/gradio_api/upload",
    "/gradio_api/queue/join",
    "/gradio_api/cancel",
    "/gradio_api/reset",
)
_OPEN_FOLDER = "/gradio_api/run/"
# The page's own server and nothing else; Gradio needs inline scripts and styles.
_POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; connect-src 'self' data: blob:; "
    "form-action 'self'; base-uri 'self'; frame-ancestors 'none'"
)


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


class OwnOnly:
    """Keeps the page to itself.

    Refuses requests of other pages, and what would fill the disk.

    Its answers also carry the policy that keeps browsers from loading anything from
    elsewhere.
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

    def _refusal(
        self, path: str, headers: dict[bytes, bytes], length: int
    ) -> tuple[int, str]:
        """Says with which status and words a request is refused.

        (0, '') where it is not.
        """
        # Browsers name the page that a request comes from; other pages may not send
        # any.
        if headers.get(b"origin", b"") != b"http://" + headers.get(b"host", b""):
            return 403, "Only the page of this server may send this."
        if path.rstrip("/") not in _OPEN_PATHS and not path.startswith(_OPEN_FOLDER):
            return 404, "There is nothing here."
        if length < 0:
            return 411, "The length of the request is missing."
        if length > MAX_REQUEST:
            return 413, f"Images may have {MAX_REQUEST >> 20} MB."

        size, files = _kept(self._folder)
        if size + self._coming + length > MAX_KEPT or files >= MAX_FILES:
            return 507, "Too many images are kept; try again in some minutes."
        return 0, ""


def _content_length(headers: dict[bytes, bytes]) -> int:
    """Reads the announced number of bytes of a request's body.

    -1 where it may be of any length.
    """
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
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})
