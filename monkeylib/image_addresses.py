"""Images at http and https addresses, for those who ask for it: with limits of size and time."""

from __future__ import annotations

import re
import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

from monkeylib.image_errors import ErrorCode, ImageError
from monkeylib.redaction import redact

MAX_BYTES = 64 * 2**20
MAX_SECONDS = 30.0  # for all of it: the name, redirects, and the last byte

_CHUNK = 1 << 16  # bytes
_NOT_ALLOWED = (401, 403, 407)


def fetch(address: str, max_bytes: int = MAX_BYTES, max_seconds: float = MAX_SECONDS) -> bytes:
    """Return what an http or https address sends; redirects are followed to such addresses only.

    Raises:
        ImageError: it sends nothing, an error, too much, or takes too long.
    """
    name = redact(address)
    download = _Download(address, max_bytes, max_seconds)

    # Another thread: looking up a name has no limit of time, and each single byte may come within it.
    thread = threading.Thread(target=download.run, daemon=True)
    thread.start()
    thread.join(max_seconds)

    if download.error is not None:
        raise _as_image_error(name, download.error, max_bytes) from download.error
    if download.content is None:
        raise ImageError(
            "missing", f"{name} did not send an image within {max_seconds:g} s: download it and pass its path"
        )
    return download.content


class _Download:
    """A download in a thread of its own, which sets `content` or `error`."""

    def __init__(self, address: str, max_bytes: int, max_seconds: float) -> None:
        self.address = address
        self.max_bytes = max_bytes
        self.deadline = time.monotonic() + max_seconds
        self.content: bytes | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        """Download, until the end, the limit of size or that of time."""
        try:
            self.content = self._read()
        except Exception as error:  # reported by the thread that waits
            self.error = error

    def _read(self) -> bytes:
        request = urllib.request.Request(self.address, headers={"User-Agent": "monkeylib"})
        opener = urllib.request.build_opener(_WebRedirects)

        with opener.open(request, timeout=max(0.001, self.deadline - time.monotonic())) as response:
            parts, size = [], 0
            while part := response.read1(_CHUNK):
                size += len(part)
                if size > self.max_bytes:
                    raise _TooMuch
                if time.monotonic() > self.deadline:
                    raise TimeoutError
                parts.append(part)

            if response.length:
                raise ConnectionError(f"the last {response.length} bytes did not come")
            return b"".join(parts)


class _TooMuch(Exception):
    """The server sends more than is taken."""


class _WebRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https; urllib would follow them to ftp, too."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Return the request for the address that the server names.

        Raises:
            URLError: it is neither http nor https.
        """
        if not re.match(r"https?://", newurl, re.IGNORECASE):
            raise urllib.error.URLError(f"it redirects to {redact(newurl)}, which is not http or https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _as_image_error(name: str, error: Exception, max_bytes: int) -> ImageError:
    if isinstance(error, _TooMuch):
        return ImageError(
            "too-large",
            f"{name} sends more than {max_bytes:,} bytes: download a smaller image and pass its path",
        )

    if isinstance(error, urllib.error.HTTPError):
        code: ErrorCode = "permission" if error.code in _NOT_ALLOWED else "missing"
        return ImageError(code, f"{name} answers {error.code} {error.reason}: check the address")

    if isinstance(error, urllib.error.URLError | OSError | HTTPException | ValueError):
        reason = redact(" ".join(str(getattr(error, "reason", "") or error).split())[:200])
        return ImageError("missing", f"{name} cannot be fetched ({reason or type(error).__name__}): check it")
    raise error
