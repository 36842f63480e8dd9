"""Whether a model hub can be reached: without one, its client tries again and again for a minute or more."""

from __future__ import annotations

import functools
import socket
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants

_SECONDS = 5  # until the hub counts as out of reach


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
