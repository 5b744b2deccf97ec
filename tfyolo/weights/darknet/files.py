"""The bytes of a .weights file: a header, then bare floats."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from tfyolo.files import what_is
from tfyolo.weights.darknet.text import DarknetError


class Header(NamedTuple):
    """What a .weights file begins with.

    Attributes:
        major, minor, revision: of the format.
        seen: images that it was trained on; 8 bytes since version 0.2, 4 before.
    """

    major: int
    minor: int
    revision: int
    seen: int

    @property
    def bytes(self):
        """As it stands in the file."""
        version = np.array([self.major, self.minor, self.revision], "<i4").tobytes()
        return version + np.array(self.seen, "<u8" if self.wide else "<u4").tobytes()

    @property
    def wide(self):
        """Whether `seen` has 8 bytes."""
        return self.major * 10 + self.minor >= 2


def open_weights(path):
    """(Header, the floats, not yet read)."""
    path = Path(path)
    if not path.is_file():
        raise DarknetError(f"{path}: expected a Darknet .weights file, found {what_is(path)}")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise DarknetError(f"{path}: a pointer of Git LFS, not the weights. Run `git lfs pull` to fetch them")
    if len(head) < 20:
        raise DarknetError(
            f"{path}: expected a Darknet .weights file, received {size} bytes: truncated, or a download that failed"
        )
    if head.lstrip().startswith((b"<", b"{", b"[net")) or (head.isascii() and b"\0" not in head):
        raise DarknetError(f"{path}: expected a Darknet .weights file, received text that begins {head[:24]!r}")
    major, minor, revision = np.frombuffer(head[:12], "<i4").tolist()
    if not (0 <= major < 100 and 0 <= minor < 100):
        hint = " (weights of networks turned on their side, by an old Darknet)" if major > 1000 or minor > 1000 else ""
        raise DarknetError(
            f"{path}: expected a Darknet .weights file, which begins with its version (0.1, 0.2, ..), received "
            f"{major}.{minor}{hint}"
        )
    header = Header(major, minor, revision, seen=0)
    seen = np.frombuffer(head[12:], "<u8" if header.wide else "<u4", count=1)
    header = header._replace(seen=int(seen[0]))
    start = len(header.bytes)
    if (size - start) % 4:
        raise DarknetError(
            f"{path}: expected whole floats of 4 bytes after a header of {start}, received {size - start:,} "
            f"bytes{_mangled(path)}"
        )
    return header, np.memmap(path, "<f4", "r", offset=start) if size > start else np.empty(0, "<f4")


def _mangled(path):
    """What happened to a file that some program took for text, in words; nothing if that is not it."""
    with open(path, "rb") as file:
        sample = file.read(1 << 20)
    lines = sample.count(b"\n")
    if sample.count(b"\xef\xbf\xbd") > len(sample) // 5000 + 3:
        return ": it was saved as text, and every byte that is no UTF-8 is lost; fetch it again, as a binary file"
    if lines > 20 and lines == sample.count(b"\r\n"):
        return ": its line ends were rewritten, as for text; fetch it again, as a binary file"
    return ": truncated, or not a .weights file"


def check_count(net, path, slots, received):
    """Checks that a file has as many floats as a network.

    Args:
        net: weights.darknet.cfg.Net.
        path: of the .weights file.
        slots: layout.layout(net).
        received: how many floats the file has.

    Raises:
        DarknetError: it has more or fewer; where they end, in words.
    """
    expected = sum(array.count for _, arrays in slots for array in arrays)
    if received == expected:
        return
    message = f"{path}: {net.path} needs {expected:,} floats, the file has {received:,}; nothing was imported. "
    if received > expected:
        raise DarknetError(
            f"{message}{received - expected:,} are left over after the last layer, {net.place(slots[-1][0])}: this is "
            "another "
            f"network's .cfg{_mangled(path)}"
        )
    left = received
    for number, arrays in slots:
        count = sum(array.count for array in arrays)
        if left < count:
            raise DarknetError(
                f"{message}{expected - received:,} are missing: it ends in {net.place(number)}, after {left:,} of "
                "that layer's "
                f"{count:,}: truncated, or of another .cfg{_mangled(path)}"
            )
        left -= count


def read_arrays(net, path, slots, floats):
    """{Keras path: array} of all that a file holds."""
    weights, start = {}, 0
    for number, arrays in slots:
        for array in arrays:
            values = np.asarray(floats[start : start + array.count]).reshape(array.shape)
            start += array.count
            if not np.isfinite(values).all():
                raise DarknetError(
                    f"{path}: {net.place(number)}: {array.variable.rpartition('/')[2]} holds numbers that are not "
                    "finite: the file is "
                    f"damaged{_mangled(path)}"
                )
            weights[array.variable] = np.ascontiguousarray(array.ours(values))
    return weights
