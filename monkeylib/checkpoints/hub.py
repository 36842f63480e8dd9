"""Models by their name on a hub, and whether a hub can be reached at all: without one, its client tries again
and again for a minute or more."""

from __future__ import annotations

import functools
import re
import socket
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from monkeylib import resources
from monkeylib.errors import first_line
from monkeylib.runs.names import MANIFEST

_SECONDS = 5  # until the hub counts as out of reach
# A name such as "owner/name"; folders are looked for first.
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# What a checkpoint consists of: no code, and no weights in formats that may hold some.
_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.md")


def fetch_model(name: str | Path) -> Path:
    """Return the folder of a model, which may be named as on a hub: "owner/name".

    A folder of that path comes first, then a model that is shipped. A model of a hub is fetched into the
    client's cache, once.

    Args:
        name: path of a folder, which need not be there, name of a shipped model, or name on a hub.

    Raises:
        FileNotFoundError: there is neither such a folder nor such a model.
    """
    folder = resources.find_model(name)
    if folder.exists():
        return folder
    require_finished_run(folder)
    if not is_hub_name(str(name)):
        return folder

    go_offline_if_unreachable(name)
    try:
        return Path(snapshot_download(str(name), allow_patterns=list(_FILES)))
    except (HfHubHTTPError, OSError, ValueError) as error:
        # The client's own words then say what a setting forbids, which may be ours alone.
        is_offline = constants.HF_HUB_OFFLINE
        cause = "none is reachable from here, or HF_HUB_OFFLINE is set" if is_offline else first_line(error)
        reason = (
            f"it is no folder, and no model hub gave a model of that name ({cause}); check the name, or "
            "connect to a hub"
        )
        raise FileNotFoundError(
            f"there is no checkpoint at {name}: {resources.suggest_model(name, reason)}"
        ) from error


def is_hub_name(name: str) -> bool:
    """Tell whether a name is written as that of a model on a hub: "owner/name"."""
    return _NAME.fullmatch(name) is not None


def require_finished_run(folder: Path) -> None:
    """Check that a folder is not the model of a training run that is not there yet, and no name on a hub.

    Raises:
        FileNotFoundError: it is.
    """
    if folder.exists():
        return
    run = folder.parent
    if folder.name != "model" or not (run / MANIFEST).is_file():
        return
    advice = "run it again to go on"
    if any(run.glob("checkpoints/*")):
        command = f"monkeylib convert {resources.shell_path(run)} NEW_FOLDER"
        advice += f", or make a model of its last checkpoint with `{command}`"
    raise FileNotFoundError(f"there is no model in {run}, a training run that is not finished: {advice}")


def push_folder(
    save: Callable[[Path], None],
    repo_id: str,
    commit_message: str,
    private: bool | None = None,
    token: str | None = None,
) -> str:
    """Put on the hub what a function writes into a new folder, and return its address.

    Args:
        save: writes the folder, which is not there yet.
        repo_id: "owner/name"; created where there is none.
        commit_message: of the change.
        private: whether only its owner sees it.
        token: of the owner, by default the one that is logged in.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    address = api.create_repo(repo_id, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "model"
        save(folder)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message)
    return str(address)


def go_offline_if_unreachable(name: str | Path) -> None:
    """Have the hub's client look on the disk alone, for the rest of this process, where no hub answers.

    Args:
        name: of a model. Of a local folder, nothing is fetched.
    """
    if not Path(name).exists() and not constants.HF_HUB_OFFLINE and not _is_reachable(constants.ENDPOINT):
        constants.HF_HUB_OFFLINE = True


@functools.cache
def _is_reachable(address: str) -> bool:
    """Return whether a connection to an address can be made; behind a proxy it is left to the client."""
    parts = urlsplit(address)
    if urllib.request.getproxies().get(parts.scheme):
        return True

    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=_SECONDS).close()
    except OSError:
        return False
    return True
