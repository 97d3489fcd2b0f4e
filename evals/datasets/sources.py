"""Where question sets come from: files, and URLs with a checksum, which are kept in the user's cache."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlsplit

from budgetctl.errors import ConfigError, EvalError

TIMEOUT_S = 60.0
_CHUNK = 1 << 20
_LISTS = ("examples", "data", "rows", "questions")
"""Fields of a JSON object under which some sets keep their list of questions."""


def cache_folder() -> Path:
    """Return where downloads are kept: ``$BUDGETCTL_CACHE``, or the platform's own place."""
    if named := os.environ.get("BUDGETCTL_CACHE"):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "budgetctl" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "budgetctl"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "budgetctl"


def fetch(source: str) -> Path:
    """Return the file that a path or a URL stands for.

    Args:
        source: A path, or ``http(s)://...#sha256=HEX``. What is in the cache is not fetched again.

    Raises:
        ConfigError: There is no such file, or the URL has no checksum; names the one to add.
        EvalError: It cannot be fetched, or is not what the checksum says.
    """
    if not source.startswith(("http://", "https://")):
        path = Path(source)
        if not path.exists():
            raise ConfigError(f"{source}: there is no such file")
        return path
    url, _, fragment = source.partition("#")
    wanted = fragment.removeprefix("sha256=").lower()
    if fragment and (len(wanted) != 64 or set(wanted) - set("0123456789abcdef")):
        raise ConfigError(f"{source}: expected #sha256= and 64 hexadecimal digits")
    kept = cache_folder() / "datasets" / f"{wanted[:16]}-{Path(urlsplit(url).path).name or 'data'}"
    if wanted and kept.exists() and _sha256(kept) == wanted:
        return kept
    return _download(url, kept, wanted=wanted)


def _download(url: str, kept: Path, *, wanted: str) -> Path:
    kept.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=kept.parent, prefix=f".{kept.name}.")
    try:
        with os.fdopen(handle, "wb") as file, urllib.request.urlopen(url, timeout=TIMEOUT_S) as reply:
            while chunk := reply.read(_CHUNK):
                file.write(chunk)
        found = _sha256(Path(name))
        if not wanted:
            raise ConfigError(
                f"{url}: a set from a URL needs a checksum; what is there has #sha256={found}: check that "
                "it is what you want, and add it"
            )
        if found != wanted:
            raise EvalError(f"{url}: is not what the checksum says: seen sha256 {found}, expected {wanted}")
        os.replace(name, kept)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise EvalError(f"{url}: cannot be fetched: {getattr(error, 'reason', None) or error}") from error
    finally:
        Path(name).unlink(missing_ok=True)
    return kept


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the records of a file, each with where it stands: JSON lines, JSON, CSV or Parquet, also gzipped.

    Of a folder the files are read in order, and ``task`` is the name of each.

    Raises:
        EvalError: The file cannot be read, or a record is no object.
        ModuleNotFoundError: It is Parquet, and pyarrow is not installed.
    """
    if path.is_dir():
        for part in sorted(p for p in path.rglob("*.*") if _ending(p) in _READERS):
            for where, record in records(part):
                yield where, {"task": part.name.partition(".")[0], **record}
        return
    reader = _READERS.get(_ending(path))
    if reader is None:
        raise EvalError(
            f"{path}: the ending says no format; known are {', '.join(_READERS)}, each also with .gz"
        )
    try:
        for place, record in reader(path):
            if not isinstance(record, dict):
                raise EvalError(f"{path}:{place}: not an object: a {type(record).__name__}")
            yield f"{path}:{place}", record
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise EvalError(f"{path}: cannot be read ({error})") from None


def _ending(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return cast(IO[str], gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
    return path.open(encoding="utf-8-sig", newline="")


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _parsed(line, where=f"{path}:{number}")


def _json(path: Path) -> Iterator[tuple[int, Any]]:
    with _open(path) as file:
        found = _parsed(file.read(), where=str(path))
    if isinstance(found, dict):
        found = next((found[name] for name in _LISTS if isinstance(found.get(name), list)), [found])
    yield from enumerate(found if isinstance(found, list) else [found], start=1)


def _parsed(text: str, *, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise EvalError(f"{where}: not JSON: {error}") from None


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    with _open(path) as file:
        reader = csv.DictReader(file)
        for row in reader:
            yield reader.line_num, {k: v for k, v in row.items() if k is not None}


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    except pyarrow.ArrowInvalid as error:
        raise EvalError(f"{path}: no Parquet file: {error}") from None


_READERS = {".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".parquet": _parquet}
