"""Query hashes that only this installation can recompute.

A plain hash of a short prompt can be undone by guessing prompts; a keyed one cannot without the key. The key
is 32 random bytes in the user's config folder (``$BUDGETCTL_HOME``, or the platform's own place), readable by
the user alone. Hashes of one installation can be joined; those of two cannot.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

_KEY_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class QueryKey:
    """The secret behind query hashes. Its repr does not show it.

    Attributes:
        secret: 32 random bytes.
        scope: ``install`` where the key is kept in a file, ``process`` where it lives in memory only because
            the config folder cannot be written; hashes of two processes then cannot be joined.
    """

    secret: bytes
    scope: Literal["install", "process"]

    def hash(self, text: str) -> str:
        """Return ``scope:hex`` of the keyed BLAKE2b hash (128 bits) of ``text``."""
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=self.secret, digest_size=16)
        return f"{self.scope}:{digest.hexdigest()}"


def query_hash(text: str) -> str:
    """Return the keyed hash of ``text``, such as ``install:9f86d081884c7d65...``."""
    try:
        folder = home()
    except RuntimeError:  # no HOME, and a user id without an entry, as in some containers
        folder = None
    return load_key(folder).hash(text)


def home() -> Path:
    """Return the folder for budgetctl's own files; it need not exist.

    Raises:
        RuntimeError: The user has no home folder that could be found.
    """
    if named := os.environ.get("BUDGETCTL_HOME"):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming") / "budgetctl"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "budgetctl"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "budgetctl"


@cache
def load_key(folder: Path | None) -> QueryKey:
    """Return the key kept in ``folder``, made on first use; where none can be kept, a key of this process."""
    if folder is not None:
        path = folder / "query.key"
        with contextlib.suppress(OSError):
            return QueryKey(secret=_read(path) or _create(path), scope="install")
    return QueryKey(secret=secrets.token_bytes(_KEY_BYTES), scope="process")


def _read(path: Path) -> bytes | None:
    try:
        secret = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(secret) != _KEY_BYTES:
        raise OSError(f"{path} does not hold a key of {_KEY_BYTES} bytes")
    return secret


def _create(path: Path) -> bytes:
    """Put a new key in place, whole or not at all; where another process was first, its key counts."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)  # unlike a rename it never replaces a key that is already in use
    finally:
        draft.unlink()
    secret = _read(path)
    if secret is None:
        raise OSError(f"{path} vanished while it was made")
    return secret
