"""HDF5 files, so written and so read that a full disk, damage and malice end in one error.

    write(path, {"meta": "{}", "weights": {"conv/kernel": array}})
    with opened(path) as file:
        file.text("meta"), file.arrays("weights")

A file ends with a checksum of all before it, which HDF5 does not read: what is damaged never comes to its library,
where it would be a crash or another array. Whoever changes a file with h5py leaves one without a checksum, as other
programs do: that is read all the same. In either nothing is followed out of the file, and nothing is larger than its
bytes there.
"""

import contextlib
import math
import struct
import zlib
from pathlib import Path

import h5py
from h5py import h5a, h5d, h5g, h5l, h5o, h5s, h5t

from tfyolo.errors import Error
from tfyolo.messages import printable, shortened

TAG = b"tfyolo:1"  # before the checksum's 4 bytes
MOST_ITEMS, DEEPEST = 100_000, 12  # the largest files have some 10,000 arrays, in groups that are four deep


class HDF5Error(Error):
    """A file is no HDF5, or is damaged, or holds what no file of weights does. The message says what."""


# --- writing ----------------------------------------------------------------------------------------------------------


def write(path, contents):
    """Writes {name: text, or a group's {"layer/variable": array}} as an HDF5 file.

    Through a file of Python's, which raises OSError where the disk is full; one of HDF5's own ends the process when it
    is closed then.
    """
    with Path(path).open("wb+") as file:
        with h5py.File(file, "w") as root:
            for name, value in contents.items():
                if isinstance(value, str):
                    root[name] = value
                    continue
                group = root.create_group(name)
                for inner, array in value.items():
                    group[inner] = array
        size = file.seek(0, 2)
        checksum = _checksum(file, size)
        file.write(TAG + struct.pack("<I", checksum))


def _checksum(file, size):
    """CRC-32 of an open file's first bytes."""
    file.seek(0)
    value = 0
    while size and (block := file.read(min(size, 1 << 20))):
        value, size = zlib.crc32(block, value), size - len(block)
    return value


# --- reading ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(path):
    """The Contents of a file, for the `with`. They and this raise HDF5Error; OSError, if the file cannot be opened."""
    with Path(path).open("rb") as file:
        size = file.seek(0, 2)
        _compare_checksum(file, size)
        with _one_error():
            root = h5py.File(file, "r")
        try:
            with _one_error():
                contents = Contents(h5g.open(root.id, b"/"), file, size)
            yield contents
        finally:
            with _one_error():
                root.close()


def _compare_checksum(file, size):
    """Raises HDF5Error if a file has a checksum that is not its own, or bytes in its place that are none."""
    length = len(TAG) + 4
    file.seek(max(size - length, 0))
    tag, checksum = file.read(len(TAG)), file.read()
    if tag == TAG and checksum != struct.pack("<I", _checksum(file, size - length)):
        raise HDF5Error("it is damaged: its checksum is not that of its contents")
    if tag != TAG and 0 < size - _end(file) <= length:
        raise HDF5Error("it is damaged: its checksum is lost")


def _end(file):
    """Where a file says that it ends; infinity if it says nothing of the kind.

    In its superblock (HDF5 File Format Specification 3.0, II.A), whose version is its ninth byte.
    """
    file.seek(0)
    start = file.read(64)
    place = (
        {0: 40, 1: 44, 2: 28, 3: 28}.get(start[8])
        if start.startswith(b"\x89HDF\r\n\x1a\n") and len(start) == 64
        else None
    )
    return math.inf if place is None else struct.unpack_from("<Q", start, place)[0]


@contextlib.contextmanager
def _one_error():
    """HDF5's library raises this or that, with what it was doing."""
    try:
        yield
    except HDF5Error:
        raise
    except Exception as error:
        raise HDF5Error(printable(error)[:200] or type(error).__name__) from error


class Contents:
    """What an open file holds, by the names of its groups; all of it is checked when it is asked for."""

    def __init__(self, root, file, size):
        self._root, self._file, self._left = root, file, size

    @_one_error()
    def __contains__(self, name):
        return self._root.links.exists(name.encode())

    @_one_error()
    def has_attribute(self, name, group=""):
        """Whether a group, of the file itself for "", has an attribute of that name, whatever it is."""
        return h5a.exists(_target(self._root, group) if group else self._root, name.encode())

    @_one_error()
    def text(self, name):
        """The bytes of a text."""
        item = _target(self._root, name)
        if not isinstance(item, h5d.DatasetID) or not isinstance(item.get_type(), h5t.TypeStringID) or item.shape != ():
            raise HDF5Error(f"{shortened(name)}: expected a text")
        kind = item.get_type()
        elsewhere = struct.Struct("<IQI")  # length, address and number of a text that has no length of its own
        size = elsewhere.size if kind.is_variable_str() else kind.get_size()
        self._check_storage(name, item, size)
        self._file.seek(item.get_offset())
        stored = self._file.read(size)
        return self._from_heap(*elsewhere.unpack(stored)) if kind.is_variable_str() else stored.rstrip(b"\0")

    def _from_heap(self, length, heap, number):
        """A text of any length, which lies among others in a heap.

        HDF5's own reader makes room for all that it is said to have, to 4 GiB, and runs in circles in a damaged heap.
        """
        self._file.seek(heap)
        mark, version, end = struct.unpack("<4sB3xQ", self._file.read(16))
        end, at = heap + min(end, self._left), heap + 16
        while (mark, version) == (b"GCOL", 1) and at + 16 <= end:
            self._file.seek(at)
            found, size = struct.unpack("<H6xQ", self._file.read(16))
            if found == number and length <= min(size, end - at - 16):
                return self._file.read(length)
            if not found or found == number:
                break
            at += 16 + (size + 7) // 8 * 8
        raise HDF5Error("its text is not where it is said to be")

    @_one_error()
    def arrays(self, group=""):
        """{"layer/variable": numpy array} of all that is below a group; of the file itself for ""."""
        top = _target(self._root, group) if group else self._root
        if not isinstance(top, h5g.GroupID):
            raise HDF5Error(f"{shortened(group)}: expected a group of arrays")
        found = {}
        self._collect(top, group, "", DEEPEST, found, set())
        return found

    def _collect(self, group, shown, path, depth, found, seen):
        address = h5o.get_info(group).addr
        if address in seen or not depth:
            raise HDF5Error(f"{shortened(shown)}: expected groups less than {DEEPEST} deep, each in one place")
        seen.add(address)
        for link in _links(group):
            name = f"{path}{link.decode()}"
            item = _target(group, link.decode())
            if isinstance(item, h5g.GroupID):
                self._collect(item, f"{shown}/{link.decode()}", f"{name}/", depth - 1, found, seen)
            else:
                found[name] = self._array(f"{shown}/{link.decode()}", item)
            if len(found) + len(seen) > MOST_ITEMS:
                raise HDF5Error(f"{shortened(shown)}: expected at most {MOST_ITEMS:,} arrays")

    def _array(self, name, item):
        if not isinstance(item, h5d.DatasetID) or item.dtype.kind not in "fiub" or item.dtype.itemsize > 8:
            raise HDF5Error(f"{shortened(name)}: expected an array of numbers")
        if item.get_space().get_simple_extent_type() not in (h5s.SCALAR, h5s.SIMPLE):
            raise HDF5Error(f"{shortened(name)}: expected an array, it has no shape")
        count = math.prod(item.shape) * item.dtype.itemsize
        self._check_storage(name, item, count)
        return h5py.Dataset(item)[()]

    def _check_storage(self, name, item, count):
        """Raises HDF5Error unless so many bytes lie in the file, in one piece, beside all that was read before."""
        layout = item.get_create_plist()
        if layout.get_layout() != h5d.CONTIGUOUS or layout.get_external_count():
            raise HDF5Error(
                f"{shortened(name)}: expected it in the file in one piece, it is external, virtual, chunked or "
                "compressed"
            )
        if count > min(self._left, item.get_storage_size()):
            raise HDF5Error(
                f"{shortened(name)}: expected no more than the file holds, it says that it has {count:,} bytes"
            )
        self._left -= count


def _links(group):
    """The names in a group, as bytes."""
    names = []
    group.links.iterate(lambda name: names.append(name) or (len(names) > MOST_ITEMS or None))
    return names


def _target(group, name):
    """What a name in a group is of: not what it leads to elsewhere."""
    if not group.links.exists(name.encode()):
        raise HDF5Error(f"it has no {shortened(name)}")
    if group.links.get_info(name.encode()).type != h5l.TYPE_HARD:
        raise HDF5Error(f"{shortened(name)}: expected it in the file itself, received a link")
    return h5o.open(group, name.encode())
