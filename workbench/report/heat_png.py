"""The picture of a weight as a PNG in a data URI: one byte a cell and a palette of 256 colours."""

from __future__ import annotations

import base64
import struct
import zlib

from workbench.records.errors import ErrorMap

_VIRIDIS = "440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725"
_DIVERGING = "0b4f94 3f82c4 8fb8de d3e2ef f4f4f4 f6dcc8 eeae82 cf6f2e 8f3d06"


def heat_uri(error_map: ErrorMap) -> str:
    """Return a picture of a weight as a data URI; signed values run from blue over grey to orange."""
    signed = not error_map.log and error_map.lo < 0 < error_map.hi
    return "data:image/png;base64," + base64.b64encode(png_bytes(error_map, palette(signed=signed))).decode("ascii")


def png_bytes(error_map: ErrorMap, colors: bytes) -> bytes:
    """Return the codes of a picture as a PNG (ISO/IEC 15948): 8 bits a pixel, indexed.

    Args:
        error_map: What `measure.error_map.error_map` made.
        colors: Red, green and blue of each of the 256 codes.
    """
    width, height = error_map.cols, error_map.rows
    rows = (error_map.values[width * at : width * (at + 1)] for at in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    parts = ((b"IHDR", head), (b"PLTE", colors), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def palette(*, signed: bool = False) -> bytes:
    """Return 256 colours: viridis, or for signed values blue over grey to orange."""
    stops = [bytes.fromhex(color) for color in (_DIVERGING if signed else _VIRIDIS).split()]
    found = bytearray()
    for code in range(256):
        place = code / 255 * (len(stops) - 1)
        before = min(int(place), len(stops) - 2)
        share = place - before
        pairs = zip(stops[before], stops[before + 1], strict=True)
        found += bytes(round(one + share * (other - one)) for one, other in pairs)
    return bytes(found)


def gradient(*, signed: bool = False) -> str:
    """Return the colours as a CSS gradient from left to right."""
    stops = (_DIVERGING if signed else _VIRIDIS).split()
    return f"linear-gradient(to right, {', '.join(f'#{color}' for color in stops)})"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
