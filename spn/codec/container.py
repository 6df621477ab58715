"""The file of coded pictures: a header, streams one after another, and a checksum.

    header    magic, format, then every field of `Header`, then the CRC-32 of all of this
    stream    offset of rounding of the first run (1 byte), length (4), CRC-32 of the pixels that it codes (4), content
    ...
    end       CRC-32 of everything before it

Numbers are little-endian. Damage is noticed before anything is decoded, by the checksums of header and file; pixels
that another machine decodes otherwise are noticed by the checksum of their stream.
"""

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from spn.codec.exponentials import tables_digest
from spn.config import InputError

MAGIC = b"SPNc"
FORMAT = 2
DIGEST_BYTES = 8
"""Bytes of a digest that are kept: enough to tell files of a lifetime apart."""

_FIXED = struct.Struct(f"<B{DIGEST_BYTES}s{DIGEST_BYTES}s4sBBHHHI")
_STREAM = struct.Struct("<BII")
_CRC = struct.Struct("<I")
_MOST_HEADER_BYTES = 1 << 26
"""The most bytes that sizes and names may take; a file that asks for more was made to harm."""


@dataclass(frozen=True)
class Header:
    """What a decoder must know, and what tells whether it can."""

    version: str
    """The version of spn that wrote the file."""
    model: bytes
    """Digest of the model: weights, parameters and chain."""
    recipes: bytes
    """Digest of the recipes of the training of its stages."""
    channels: int
    bits: int
    tile: tuple[int, int]
    """Height and width of the tiles."""
    images_per_stream: int
    sizes: list[tuple[int, int]]
    """Height and width of every picture."""
    names: list[str] = field(default_factory=list)
    """Names of the pictures; empty if they have none."""
    labels: list[int | list[int]] = field(default_factory=list)
    """Classes of the pictures, or the tokens of their captions; empty for a model conditioned on neither."""
    greys: list[int] = field(default_factory=list)
    """Numbers of the pictures that are grey, coded as RGB."""


@dataclass(frozen=True)
class Chunk:
    """One stream in a file."""

    offset: int
    pixels_crc: int
    content: bytes


def kept_digest(digest: str) -> bytes:
    """Return the first bytes of a hexadecimal digest."""
    return bytes.fromhex(digest)[:DIGEST_BYTES]


def pack(header: Header, chunks: Sequence[Chunk]) -> bytes:
    """Return the file."""
    parts = [_pack_header(header)]
    for chunk in chunks:
        parts += [_STREAM.pack(chunk.offset, len(chunk.content), chunk.pixels_crc), chunk.content]
    whole = b"".join(parts)
    return whole + _CRC.pack(zlib.crc32(whole))


def unpack(content: bytes) -> tuple[Header, list[Chunk]]:
    """Return header and streams; raise InputError for a file of another kind or format, or a damaged one."""
    header, place = unpack_header(content)
    if len(content) < place + _CRC.size or _CRC.unpack(content[-_CRC.size :])[0] != zlib.crc32(content[: -_CRC.size]):
        raise InputError("expected the bytes that were written, got others: damaged or cut off")
    return header, _unpack_streams(content[place : -_CRC.size])


def _unpack_streams(content: bytes) -> list[Chunk]:
    chunks, place = [], 0
    while place < len(content):
        if len(content) - place < _STREAM.size:
            raise InputError("expected whole streams, got the start of one")
        offset, size, pixels_crc = _STREAM.unpack_from(content, place)
        place += _STREAM.size
        chunks.append(Chunk(offset, pixels_crc, content[place : place + size]))
        place += size
    return chunks


def unpack_header(content: bytes) -> tuple[Header, int]:
    """Return the header and its length; raise InputError as `unpack` does."""
    if not content.startswith(MAGIC):
        raise InputError("expected a file of coded pictures, as `spn encode` writes it, got another kind of file")
    if len(content) < len(MAGIC) + 1 + _FIXED.size:
        raise InputError("expected a whole header, got the start of one: cut off")
    if (form := content[len(MAGIC)]) != FORMAT:
        raise InputError(f"expected format {FORMAT}, got {form}: written by another version of spn")
    start = len(MAGIC) + 1
    version_size, model, recipes, tables, channels, bits, height, width, per_stream, size = _FIXED.unpack_from(
        content, start
    )
    middle = start + _FIXED.size + version_size
    end = middle + size
    crc = content[end : end + _CRC.size]
    if len(crc) < _CRC.size or _CRC.unpack(crc)[0] != zlib.crc32(content[:end]):
        raise InputError("expected the header that was written, got another: damaged or cut off")
    if tables != tables_digest()[:4]:
        raise InputError("expected the tables of this version of spn, got others: written by another version")
    try:
        rest = dict(json.loads(zlib.decompressobj().decompress(content[middle:end], _MOST_HEADER_BYTES)))
        sizes = [(int(rows), int(columns)) for rows, columns in rest.pop("sizes")] * int(rest.pop("count", 1))
        for name, kind in (("names", str), ("labels", int), ("greys", int)):
            # A label is a class, or the tokens of a caption.
            parts = (each if name == "labels" and isinstance(each, list) else [each] for each in rest.get(name, ()))
            if not all(isinstance(each, kind) for part in parts for each in part):
                raise TypeError(f"{name} of another type")
        fields = Header(
            content[start + _FIXED.size : middle].decode(), model, recipes, channels, bits, (height, width), per_stream,
            sizes, **rest,
        )  # fmt: skip
    except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError, MemoryError, zlib.error) as error:
        raise InputError(f"expected the pictures' sizes and names in the header, got: {error}") from error
    return fields, end + _CRC.size


def _pack_header(header: Header) -> bytes:
    is_uniform = len(set(header.sizes)) == 1
    rest = {"sizes": header.sizes[:1], "count": len(header.sizes)} if is_uniform else {"sizes": header.sizes}
    rest |= {name: value for name in ("names", "labels", "greys") if (value := getattr(header, name))}
    pictures = zlib.compress(json.dumps(rest, separators=(",", ":")).encode(), 9)
    version = header.version.encode()
    fixed = _FIXED.pack(
        len(version),
        header.model,
        header.recipes,
        tables_digest()[:4],
        header.channels,
        header.bits,
        *header.tile,
        header.images_per_stream,
        len(pictures),
    )
    start = MAGIC + bytes([FORMAT]) + fixed + version + pictures
    return start + _CRC.pack(zlib.crc32(start))
