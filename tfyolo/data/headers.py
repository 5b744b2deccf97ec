"""What an image file says of itself before it is decoded: its kind, its size and how it is turned.

This is the one place where Python reads it. decoding.decode_image reads the orientation in the graph, and a test holds
the two together.
"""

import io
import os
import struct
import warnings
from typing import NamedTuple

from PIL import Image

from tfyolo.config.ranges import MOST_PIXELS
from tfyolo.files import open_regular

HEAD = 1 << 18  # bytes in which a JPEG or PNG says how it is turned; what comes later is not looked for
ORIENTATION = 0x0112  # the tag of EXIF and TIFF


class Header(NamedTuple):
    """What the header of an image file says.

    Attributes:
        kind: "JPEG", "PNG", "GIF", "BMP", "WebP", "TIFF" or "other".
        size: (H, W) as seen upright.
        orientation: EXIF's 1..8; from 5 on height and width are exchanged in the file.
    """

    kind: str
    size: tuple[int, int]
    orientation: int = 1


def read_header(file) -> Header:
    """Reads the Header of an image.

    Args:
        file: a path, the bytes of a file, or a binary file open at its start.

    Raises:
        OSError: it cannot be read, or has no header of an image.
    """
    if isinstance(file, bytes):
        return _read(io.BytesIO(file))
    if isinstance(file, str | os.PathLike):
        with open_regular(file) as stream:
            return _read(stream)
    return _read(file)


def image_size(file) -> tuple[int, int]:
    """(H, W) of an image as seen upright, from its header alone; arguments and errors are those of read_header."""
    return read_header(file).size


def too_large(file, most_pixels=MOST_PIXELS) -> str | None:
    """Why an image is not to be decoded, from its header alone; None if it may be, or if the header cannot be read.

    Args:
        file: a path, the bytes of a file, or a binary file open at its start.
        most_pixels: height times width.
    """
    try:
        height, width = read_header(file).size
    except OSError:
        return None  # the decoder says what is wrong with it
    if height * width <= most_pixels:
        return None
    return f"{height:,} x {width:,} pixels (H x W), expected at most {most_pixels:,} in all"


def surely_fits(file, most_pixels=MOST_PIXELS) -> bool:
    """Whether the header of an image can be read here and gives at most so many pixels.

    A decoder may make something of a header that is none here, and of more pixels.

    Args:
        file: a path, the bytes of a file, or a binary file open at its start.
        most_pixels: height times width.
    """
    try:
        height, width = read_header(file).size
    except OSError:
        return False
    return height * width <= most_pixels


def _read(stream):
    head = stream.read(32)
    for kind, (magics, parse) in _KINDS.items():
        if head.startswith(magics):
            try:
                height, width, orientation = parse(stream, head)
            except (struct.error, ValueError, LookupError):
                raise OSError(f"its header is damaged, or no {kind}'s") from None
            if not (height > 0 and width > 0):
                raise OSError(f"its header is damaged: {height} x {width} pixels (H x W)")
            orientation = orientation if 1 <= orientation <= 8 else 1
            return Header(kind, (width, height) if orientation >= 5 else (height, width), orientation)
    return _by_pil(stream)


def _by_pil(stream):
    """What is of another kind: rare enough for an import of all of PIL's formats."""
    stream.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own limit of pixels
            with Image.open(stream) as image:
                return Header("other", (image.height, image.width))
    except Exception:  # of a dozen kinds: each of PIL's formats has its own
        raise OSError("not an image, or one whose header is damaged") from None


def _at(stream, place, count):
    """`count` bytes from a place in the file. Raises ValueError if they are not there."""
    stream.seek(place)
    octets = stream.read(count)
    if len(octets) < count:
        raise ValueError
    return octets


def _jpeg(stream, head):
    place, orientation, stands_before = 2, 1, True
    for _ in range(10_000):  # segments: some hundred are many
        marker, length = struct.unpack(">HH", _at(stream, place, 4))
        kind = marker & 0xFF
        if marker >> 8 != 0xFF or kind == 0xFF:  # bytes that fill, and what decoders pass over
            place, stands_before = place + 1, False
            continue
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", _at(stream, place + 5, 4))
            return height, width, orientation
        if stands_before and place < HEAD and kind == 0xE1 and stream.read(4) == b"Exif":
            stream.seek(place + 10)
            orientation, stands_before = _turned(stream.read(max(0, HEAD - place - 10))), False
        stands_before = stands_before and (kind >> 4 == 0xE or kind == 0xFE)
        place += 2 if 0xD0 <= kind <= 0xD9 or kind == 1 else 2 + length
    raise ValueError


def _png(stream, head):
    if head[12:16] != b"IHDR":
        raise ValueError
    width, height = struct.unpack(">II", head[16:24])
    stream.seek(0)
    before, _, _ = stream.read(HEAD).partition(b"IDAT")
    _, _, exif = before.partition(b"eXIf")
    return height, width, _turned(exif)


def _webp(stream, head):
    if head[8:12] != b"WEBP" or len(head) < 30:
        raise ValueError
    if head[12:16] == b"VP8X":
        width, height = (1 + int.from_bytes(head[at : at + 3], "little") for at in (24, 27))
        stream.seek(0)
        _, found, exif = stream.read().rpartition(b"EXIF")
        return height, width, _turned(exif[10 if exif[4:10] == b"Exif\0\0" else 4 :]) if found else 1
    if head[12:16] == b"VP8L" and head[20] == 0x2F:
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF), 1
    if head[12:16] == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", head[26:30])
        return height & 0x3FFF, width & 0x3FFF, 1
    raise ValueError


def _gif(stream, head):
    width, height = struct.unpack("<HH", head[6:10])
    return height, width, 1


def _bmp(stream, head):
    size = int.from_bytes(head[14:18], "little")
    width, height = struct.unpack("<HH" if size == 12 else "<ii", head[18 : 22 if size == 12 else 26])
    return abs(height), width, 1  # a negative height stands for rows from the top down


def _tiff(stream, head):
    order = "<" if head[:2] == b"II" else ">"
    (place,) = struct.unpack(order + "I", head[4:8])
    (count,) = struct.unpack(order + "H", _at(stream, place, 2))
    tags = {}
    for tag, kind, value in _entries(stream.read(12 * count), order):
        tags[tag] = struct.unpack(order + {3: "H2x", 4: "I"}.get(kind, "4x"), value)
    return tags[0x0101][0], tags[0x0100][0], tags.get(ORIENTATION, (1,))[0]


def _turned(tiff):
    """The orientation that the TIFF of an EXIF says; 1 if it says none."""
    order = "<" if tiff[:2] == b"II" else ">"
    try:
        (place,) = struct.unpack(order + "I", tiff[4:8])
        (count,) = struct.unpack(order + "H", tiff[place : place + 2])
    except struct.error:
        return 1
    entries = _entries(tiff[place + 2 :][: 12 * count], order)
    return max((struct.unpack(order + "H2x", value)[0] for tag, _, value in entries if tag == ORIENTATION), default=1)


def _entries(octets, order):
    """(tag, type, 4 bytes of the value) of each entry of a TIFF's directory."""
    for at in range(0, len(octets) - 11, 12):
        tag, kind = struct.unpack_from(order + "HH", octets, at)
        yield tag, kind, octets[at + 8 : at + 12]


_KINDS = {
    "JPEG": (b"\xff\xd8", _jpeg),
    "PNG": (b"\x89PNG", _png),
    "GIF": (b"GIF8", _gif),
    "BMP": (b"BM", _bmp),
    "WebP": (b"RIFF", _webp),
    "TIFF": ((b"II*\0", b"MM\0*"), _tiff),
}


def kind_of(contents) -> str:
    """What a file's first bytes say that it is: a Header's kind. They alone: nothing says that the rest is whole."""
    return next((kind for kind, (magics, _) in _KINDS.items() if contents.startswith(magics)), "other")
