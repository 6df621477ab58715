"""Lossless coding of pictures with a chain: the methods `encode` and `decode` of `ChainModel`."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm, log, prod
from pathlib import PurePath
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from spn import __version__
from spn.api.probe import exact
from spn.codec.container import Chunk, Header, kept_digest, pack, unpack
from spn.codec.decoder import ImageDecoder
from spn.codec.encoder import Images, Known, Parts, encode_images
from spn.codec.tiles import Group, Picture, group_pictures
from spn.config import InputError
from spn.console.bar import SHOWN_AFTER
from spn.files import json_digest
from spn.shapes import Labels
from spn.stages import build_stage

if TYPE_CHECKING:
    from spn.api.chain_model import ChainModel

MOST_DIMS = 1 << 28
"""The most sub-pixels of a file: 89 million pixels of RGB."""
IMAGES_PER_STREAM = 64
"""Default number of images that share a stream; each stream ends with about 32 bits of its own."""
MOST_IMAGES_PER_STREAM = (1 << 16) - 1
"""What the header holds of that number."""
ENCODING_BATCH_SIZE = 16
"""Default number of images per pass."""
DECODING_BATCH_SIZE = 256
"""Default number of images that are walked at once."""


@dataclass(frozen=True)
class Coded:
    """Coded pictures, and what they cost."""

    content: bytes
    """The file."""
    num_dims: int
    """Sub-pixels of all pictures."""
    num_streams: int
    stream_bits: int
    """The streams alone, without header and checksums."""
    nats: float
    """-log p of the pictures, in nats; exact. Of tiles that overlap, given the pixels that are known already."""
    ideal_bits: float
    """What the whole-number frequencies cost, in bits: `nats` in bits, and what rounding adds."""

    @property
    def bits_per_dim(self) -> float:
        """Bits of the file per sub-pixel, without the model's weights."""
        return 8 * len(self.content) / self.num_dims

    @property
    def likelihood_bits_per_dim(self) -> float:
        """Bits per sub-pixel that the likelihood states."""
        return self.nats / log(2) / self.num_dims


def encode(
    model: "ChainModel",
    pictures: Sequence[Picture],
    labels: Labels | None,
    *,
    names: Sequence[str] = (),
    greys: Sequence[int] = (),
    in_tiles: bool = False,
    images_per_stream: int = IMAGES_PER_STREAM,
    batch_size: int = ENCODING_BATCH_SIZE,
) -> Coded:
    """Encode pictures of levels [H, W, C] of any size, for a conditional chain with a label for each.

    A chain of convolutions alone codes every picture as a whole; others, or with `in_tiles` all, code tiles of the size
    of the model's images. Raises InputError for a chain of codes, or one whose likelihood is a bound, and for `names`
    that are not those of files, one for each picture, all different without their suffixes.
    """
    check_exact(model)
    height, width, channels = model.shape
    header = Header(
        version=__version__,
        model=kept_digest(model.digest),
        recipes=kept_digest(json_digest(model.notes["recipes"])),
        channels=channels,
        bits=model.params.data.bits,
        tile=(0, 0) if takes_any_size(model) and not in_tiles else (height, width),
        images_per_stream=images_per_stream,
        sizes=[(picture.shape[0], picture.shape[1]) for picture in pictures],
        names=list(names),
        labels=[] if labels is None else labels.tolist(),
        greys=list(greys),
    )
    _check_header(model, header)
    groups = _groups(model, header)
    chunks, nats, ideal = [], 0.0, 0.0
    with _bar("encode", sum(group.num_tiles for group in groups), "image") as bar:
        for group in groups:
            canvas, parts = group.canvas(pictures), _parts(model, group.tile)
            for tiles in group.streams:
                images, known = canvas.cut(tiles)
                of_tiles = None if labels is None else labels[group.pictures_of(tiles)]
                stream = encode_images(parts, images, known, of_tiles, batch_size, bar.update)
                chunks.append(Chunk(stream.offset, _crc(images, known), stream.content))
                nats, ideal = nats + stream.nats, ideal + stream.ideal_bits
                canvas.put(tiles, images)
    num_dims, stream_bits = sum(picture.numel() for picture in pictures), 8 * sum(len(each.content) for each in chunks)
    return Coded(pack(header, chunks), num_dims, len(chunks), stream_bits, nats, ideal)


def decode(model: "ChainModel", content: bytes, batch_size: int = DECODING_BATCH_SIZE) -> tuple[Header, list[Picture]]:
    """Decode what `encode` returned; return the header, and pictures of levels [H, W, C].

    `batch_size` images are walked at once, but at least those of a stream. Raises InputError if the file is damaged, if
    another model or version wrote it, or if pixels are not decoded as they were encoded.
    """
    check_exact(model)
    header, chunks = unpack(content)
    if header.model != (expected := kept_digest(model.digest)):
        raise InputError(
            f"expected pictures that were coded with {model.path}, a model of digest {expected.hex()}, "
            f"got those of a model of digest {header.model.hex()}"
        )
    _check_header(model, header)
    blank = [torch.zeros((*size, header.channels), dtype=torch.uint8) for size in header.sizes]
    labels = torch.tensor(header.labels) if header.labels else None
    groups, rest, pictures = _groups(model, header), iter(chunks), dict(enumerate(blank))
    if len(chunks) != (needed := sum(len(group.streams) for group in groups)):
        raise InputError(f"expected {needed} streams for the pictures of the header, got {len(chunks)}")
    with _bar("decode", _num_steps(model, groups, batch_size), "step") as bar:
        for group in groups:
            canvas, parts = group.canvas(blank), _parts(model, group.tile)
            for streams in group.batches(batch_size):
                tiles = [tile for stream in streams for tile in stream]
                of_tiles = None if labels is None else labels[group.pictures_of(tiles)]
                coded = [next(rest) for _ in streams]
                decoder = ImageDecoder(
                    [each.content for each in coded], [each.offset for each in coded], list(map(len, streams))
                )
                images, known = canvas.cut(tiles)
                images = decoder.run(parts, images, known, of_tiles, bar.update)
                _check_pixels(images, known, coded, streams)
                canvas.put(tiles, images)
            pictures.update(zip(group.numbers, canvas.pictures, strict=True))
    return header, list(pictures.values())


def check_exact(model: "ChainModel") -> None:
    """Raise InputError for a model that codes nothing without loss, or whose likelihood no code can reach."""
    if model.first_stage is not None:
        raise InputError(
            f"{model.path}: expected a chain of pixels, got {model.chain}, whose codes keep no picture exactly"
        )
    if model.views:
        raise InputError(
            f"{model.path}: expected a chain of one order to code with, got {model.chain}, a mixture of "
            f"{len(model.views)} orders"
        )
    if model.is_bound:
        raise InputError(
            f"{model.path}: expected a chain with an exact likelihood, got {model.chain}, whose likelihood is a bound"
        )


def _check_header(model: "ChainModel", header: Header) -> None:
    """Raise InputError unless the pictures are such as `encode` codes with the model, before memory is asked for."""
    num_dims = sum(rows * columns for rows, columns in header.sizes) * header.channels
    if not header.sizes or min(min(size) for size in header.sizes) < 1 or num_dims > MOST_DIMS:
        raise InputError(f"expected pictures of 1 to {MOST_DIMS:,} sub-pixels together, got {num_dims:,}")
    tiles = [model.shape[:2]] + [(0, 0)] * takes_any_size(model)
    is_of_model = (header.channels, header.bits) == (model.shape[2], model.params.data.bits) and header.tile in tiles
    if not is_of_model:
        raise InputError(
            f"expected {model.shape[2]} channels of {model.params.data.bits} bits in tiles of one of {tiles}, "
            f"got {header.channels} of {header.bits} in tiles of {header.tile}"
        )
    if not 1 <= header.images_per_stream <= MOST_IMAGES_PER_STREAM:
        raise InputError(
            f"images_per_stream: expected 1 to {MOST_IMAGES_PER_STREAM:,}, got {header.images_per_stream:,}"
        )
    _check_names(header)
    conditioned = bool(model.params.num_classes(model.chain))
    if len(header.labels) != conditioned * len(header.sizes):
        raise InputError(f"expected a class for each of {len(header.sizes)} pictures, got {len(header.labels)}")


def _check_names(header: Header) -> None:
    """Raise InputError unless all pictures can be decoded into one folder, each by its name."""
    for name in header.names:
        if PurePath(name).name != name or not PurePath(name).stem.strip(".") or "\0" in name:
            raise InputError(f"names: expected names of files without folders, got {name!r}")
    stems = {PurePath(name).stem for name in header.names}
    if header.names and not len(stems) == len(header.names) == len(header.sizes):
        raise InputError(
            f"names: expected one for each of {len(header.sizes)} pictures, all different without their suffixes, got "
            f"{len(stems)} in {len(header.names)}"
        )


def takes_any_size(model: "ChainModel") -> bool:
    """Tell whether the networks of all stages take slices of any size, so that a picture needs no tiles."""
    return all(model.params.stages[name].model.takes_any_size for name in model.stages)


def _groups(model: "ChainModel", header: Header) -> list[Group]:
    # The sides of slices are multiples of 4, as PixelCNN++ wants them.
    multiple = 4 * lcm(*(stage.plan.scale_factor for stage, _ in model.stages.values()))
    return group_pictures(header.sizes, header.tile, multiple, header.images_per_stream)


def _num_steps(model: "ChainModel", groups: Sequence[Group], batch_size: int) -> int:
    """Count the steps of all walks: sub-pixels, walked in all images of a batch at once."""
    slices = sum(len(stage.targets) / stage.plan.scale_factor**2 for stage, _ in model.stages.values())
    steps = sum(len(list(group.batches(batch_size))) * prod(group.tile) for group in groups)
    return round(steps * model.shape[2] * slices)


def _parts(model: "ChainModel", size: tuple[int, int]) -> Parts:
    """Return stages and networks for images of this size, in float64."""
    shape = (*size, model.shape[2])
    if shape == model.shape:
        return [(stage, exact(network).cpu()) for stage, network in model.stages.values()]
    parts = []
    for name, (stage, network) in model.stages.items():
        larger = build_stage(stage.plan, shape)
        same = larger.build_network(model.params.stages[name])
        same.load_state_dict(network.state_dict())
        parts.append((larger, same.double().eval().requires_grad_(False)))
    return parts


def _crc(images: Images, known: Known) -> int:
    """Return the CRC-32 of the pixels that are not known."""
    return zlib.crc32(images[~known].numpy().tobytes())


def _check_pixels(images: Images, known: Known, chunks: Sequence[Chunk], streams: Sequence[Sequence[object]]) -> None:
    counts = list(map(len, streams))
    for number, (chunk, image, knows) in enumerate(zip(chunks, images.split(counts), known.split(counts), strict=True)):
        if (found := _crc(image, knows)) != chunk.pixels_crc:
            raise InputError(
                f"expected pixels of CRC-32 {chunk.pixels_crc:08x} in stream {number + 1}, got {found:08x}: "
                "this machine's arithmetic differs by more than the code allows for"
            )


def _bar(what: str, total: int, unit: str) -> "tqdm[object]":
    return tqdm(total=total, desc=what, unit=unit, dynamic_ncols=True, delay=SHOWN_AFTER)
