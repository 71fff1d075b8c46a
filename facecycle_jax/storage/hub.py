"""Models on the Hugging Face Hub: addresses, download and upload.

An address is 'hf://user/name' or 'hf-hub:user/name', either perhaps followed by '@' and
a revision. The package huggingface_hub (extra `hub`) is imported on first use.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from etils import epath

from facecycle_jax._version import __version__
from facecycle_jax.errors import UserError, importing, shorten
from facecycle_jax.storage.folder_config import CONFIG, WEIGHTS
from facecycle_jax.storage.model_card import card_head
from facecycle_jax.storage.model_folder import CARD, read_model

_PREFIXES = ("hf://", "hf-hub:")
# Statuses of HTTP after which the same request may succeed later: this one, and those
# of errors of the server, which are the largest.
_TOO_MANY_REQUESTS = 429
_SERVER_ERRORS = 500
_FILES = (CONFIG, WEIGHTS, CARD)
_LIBRARY = {"library_name": "facecycle_jax", "library_version": __version__}


class HubAddress(NamedTuple):
    """A model on the Hub.

    Attributes:
      repo: 'user/name'.
      revision: branch, tag or commit, or None: the main branch.
    """

    repo: str
    revision: str | None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.repo}{revision}"


def is_hub_address(path: epath.PathLike) -> bool:
    """Says whether a path is an address on the Hub."""
    return os.fspath(path).startswith(_PREFIXES)


def parse_address(text: str, *, revision: str | None = None) -> HubAddress:
    """Reads an address.

    Args:
      text: 'hf://user/name', 'hf-hub:user/name' or 'user/name', perhaps followed by '@'
        and a revision.
      revision: the revision, if `text` names none.

    Returns:
      The address.

    Raises:
      UserError: If it is not an address, or names a revision twice.
    """
    name = text
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)

    repo, at, named = name.partition("@")
    is_repo = re.fullmatch(r"[\w.-]+/[\w.-]+", repo, re.ASCII)
    if not is_repo or (at and not named):
        raise UserError(
            f"{shorten(text)} is not a model on the Hub: write hf://USER/NAME or "
            "hf://USER/NAME@REVISION; `facecycle push` takes USER/NAME too."
        )
    if named and revision:
        raise UserError(
            f"{text} names a revision already; leave out revision={revision!r}."
        )
    return HubAddress(repo, named or revision)


def download_model(
    text: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: epath.PathLike | None = None,
    local_files_only: bool = False,
) -> epath.Path:
    """Brings a model folder from the Hub into the cache, if it is not there yet.

    Weights that were damaged on their way are downloaded once more. Without a network,
    a model in the cache is used as it is.

    Args:
      text: the address.
      revision: branch, tag or commit, if the address names none; None: the main branch.
      token: access token; None: that of HF_TOKEN or of `hf auth login`, if there is
        one.
      cache_dir: folder of the cache; None: HF_HUB_CACHE, or huggingface_hub's default.
      local_files_only: whether only the cache is looked at.

    Returns:
      The model folder in the cache.

    Raises:
      MissingExtraError: If huggingface_hub is not installed.
      UserError: If there is no such model or revision, the token is refused, there is
        no network, or the weights arrive damaged twice; in one sentence.
    """
    address = parse_address(text, revision=revision)
    hub = _import_hub(f"Loading {address}")

    def fetch(*, again: bool) -> epath.Path:
        with _one_sentence(hub, address, cache_only=local_files_only):
            folder = hub.snapshot_download(
                address.repo,
                revision=address.revision,
                token=token,
                cache_dir=None if cache_dir is None else os.fspath(cache_dir),
                local_files_only=local_files_only,
                force_download=again,
                allow_patterns=list(_FILES),
                endpoint=_endpoint(),
                **_LIBRARY,
            )
        return epath.Path(folder)

    folder = fetch(again=False)
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"{address} is not a model of facecycle_jax: it has no {CONFIG}; "
            "`facecycle push` makes such a repository of a model folder."
        )

    # The cache would keep a damaged file for ever.
    if _is_damaged(folder) and not local_files_only:
        folder = fetch(again=True)
    if _is_damaged(folder):
        remedy = "load it again with a network"
        if not local_files_only:
            remedy = "it arrived so twice, so its owner should push it again"
        raise UserError(
            f"{address} is damaged: {WEIGHTS} or {CONFIG} is not as it was written; "
            f"{remedy}."
        )
    return folder


def push_model(
    folder: epath.PathLike,
    repo: str,
    *,
    token: str | None = None,
    public: bool = False,
) -> str:
    """Uploads a model folder to the Hub, in one commit.

    Args:
      folder: a model folder on this computer; it is checked first.
      repo: 'user/name', perhaps followed by '@' and a branch, which is made if it is
        missing. A repository that is missing is made too.
      token: access token with the right to write; None: that of HF_TOKEN or of `hf auth
        login`.
      public: whether a repository that is made is public.

    Returns:
      The commit's address in the web.

    Raises:
      FileNotFoundError: If there is no such model folder.
      MissingExtraError: If huggingface_hub is not installed.
      UserError: If the folder is damaged, the token is refused or there is no network.
    """
    address = parse_address(repo)
    hub = _import_hub("Pushing a model")
    folder = epath.Path(folder)
    config = read_model(folder).info

    # Folders of earlier versions have a card without what the Hub reads.
    files = {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)}
    card = (folder / CARD).read_text() if (folder / CARD).exists() else ""
    if not card.startswith("---\n"):
        card = card_head(config, name=address.repo.split("/")[1]) + card
    files[CARD] = card.encode()

    api = hub.HfApi(endpoint=_endpoint(), token=token, **_LIBRARY)
    with _one_sentence(hub, address):
        api.create_repo(address.repo, private=not public, exist_ok=True)
        if address.revision:
            api.create_branch(address.repo, branch=address.revision, exist_ok=True)

        done = api.create_commit(
            address.repo,
            [hub.CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message=f"Model folder of facecycle_jax {__version__}",
            revision=address.revision,
        )
    return str(done.commit_url)


def _endpoint() -> str | None:
    """Returns the server that HF_ENDPOINT names, or None for the Hub.

    huggingface_hub looks at the variable only when it is imported.
    """
    return os.environ.get("HF_ENDPOINT") or None


def _import_hub(purpose: str) -> Any:
    """Imports huggingface_hub."""
    with importing(f"{purpose} needs huggingface_hub", extra="hub"):
        import huggingface_hub
        import huggingface_hub.errors

    return huggingface_hub


def _is_damaged(folder: epath.Path) -> bool:
    """Says whether the weights differ from the checksum in config.json.

    What else may be wrong with a folder is left to `read_model`.
    """
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except (ValueError, RecursionError):
        return True

    try:
        expected = config["weights"]["sha256"]
    except (KeyError, TypeError):
        return False

    weights = folder / WEIGHTS
    if not weights.is_file():
        return False
    return hashlib.sha256(weights.read_bytes()).hexdigest() != expected


@contextlib.contextmanager
def _one_sentence(
    hub: Any, address: HubAddress, *, cache_only: bool = False
) -> Iterator[None]:
    """Turns errors of the Hub into sentences that say what to do."""
    errors = hub.errors
    try:
        yield
    except (errors.HTTPError, errors.LocalEntryNotFoundError, ConnectionError) as error:
        text = _explain(errors, error, address, cache_only=cache_only)
        raise UserError(text) from error
    except errors.HFValidationError as error:
        reason = shorten(str(error).splitlines()[0], 200)
        raise UserError(f"{address} is not a name on the Hub: {reason}") from None


def _explain(
    errors: Any, error: Exception, address: HubAddress, *, cache_only: bool
) -> str:
    """Writes the sentence of an error of huggingface_hub."""
    # What is not in the cache either is an error of the cache. Its cause says why the
    # Hub was not reached.
    cause = error
    if isinstance(error, errors.LocalEntryNotFoundError):
        cause = error.__cause__ or error

    login = "set HF_TOKEN to a token of yours, or run `hf auth login`"
    if isinstance(cause, errors.GatedRepoError):
        return (
            f"{address} is given to people who accept its terms: do so on its page on "
            f"the Hub, and {login}."
        )
    if isinstance(cause, errors.RevisionNotFoundError):
        return f"{address}: there is no revision {address.revision!r} of this model."
    if isinstance(cause, errors.RepositoryNotFoundError):
        return (
            f"There is no model {address.repo} on the Hub, or it is private and your "
            f"token cannot read it: check the name, or {login}."
        )

    if isinstance(cause, errors.HfHubHTTPError):
        status = cause.response.status_code
        if status in (401, 403):
            return (
                f"{address}: the Hub refuses the token ({status}); {login}. It must "
                "be valid and have the right to read, or to write where you push."
            )
        if status == _TOO_MANY_REQUESTS or status >= _SERVER_ERRORS:
            return f"{address}: the Hub answers with status {status}; try again later."
        reason = shorten(cause.server_message or str(cause).split("\n")[0], 200)
        return f"{address}: the Hub refuses this with status {status}: {reason}."

    if cache_only or isinstance(cause, errors.OfflineModeIsEnabled):
        return (
            f"{address} is not in the cache, or not all of it, and the Hub is not to "
            "be asked (local_files_only or HF_HUB_OFFLINE): load it once with a "
            "network."
        )
    return (
        f"{address}: the Hub cannot be reached, or the connection broke "
        f"({type(cause).__name__}); check the network or HF_ENDPOINT and try again."
    )
