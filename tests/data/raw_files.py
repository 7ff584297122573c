"""Files that Pillow does not write: deep colour PNG and TIFF, and PNG headers that lie about their size."""

import struct
import zlib
from pathlib import Path

import numpy as np

PNG_COLOUR_TYPES = {1: 0, 3: 2, 2: 4, 4: 6}  # channels -> PNG colour type


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def write_deep_png(path: Path, values: np.ndarray, *, row_filter: int = 0, key: tuple[int, ...] = ()) -> None:
    """Write uint16 (H, W, channels) as a 16-bit PNG; `row_filter` is 0 (none), 1 (left) or 2 (above)."""
    height, width, channels = values.shape
    stored = np.frombuffer(values.astype(">u2").tobytes(), dtype=np.uint8).reshape(height, -1)
    reference = np.zeros_like(stored)
    if row_filter == 1:
        reference[:, 2 * channels :] = stored[:, : -2 * channels]
    elif row_filter == 2:
        reference[1:] = stored[:-1]
    rows = np.insert((stored - reference).astype(np.uint8), 0, row_filter, axis=1)
    header = struct.pack(">IIBBBBB", width, height, 16, PNG_COLOUR_TYPES[channels], 0, 0, 0)
    transparent = png_chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)) if key else b""
    data = png_chunk(b"IDAT", zlib.compress(rows.tobytes()))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + transparent + data + png_chunk(b"IEND", b""))


def write_png_header(path: Path, width: int, height: int) -> None:
    """Write a PNG that claims to be `width` x `height` and holds almost nothing."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"\0" * 64)) + png_chunk(b"IEND", b"")
    )
