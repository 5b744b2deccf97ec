"""The files behind a TFLite file, a zip at its end: its labels, and what this package says of it."""

import hashlib
import io
import zipfile

from tfyolo.errors import Error

MOST = 64 << 20  # bytes of the files behind a TFLite file


class DamagedError(Error):
    """A file is not what was written. The message says how that shows."""


def with_files(content, files):
    """A TFLite file's bytes with files behind them, as the format's own zip. files: {name: text}."""
    packed = io.BytesIO(content)
    with zipfile.ZipFile(packed, "a") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)  # without the time: the same model gives the same bytes
    return packed.getvalue()


def files_behind(content):
    """({name: bytes}, how many bytes stand before them) of a file's bytes; DamagedError if they are not whole."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > MOST:
                raise DamagedError(f"more than {MOST} bytes of files behind the model")
            # Each is checked by the checksum that the zip has of it.
            files = {entry.filename: archive.read(entry) for entry in entries}
            return files, min((entry.header_offset for entry in entries), default=len(content))
    except DamagedError:
        raise
    except Exception as error:  # of a dozen kinds, zlib's and struct's among them
        raise DamagedError(f"the files behind the model do not read ({error})") from error


def checksum(content):
    """By which bytes differ from all others: SHA-256, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
