"""Cuts pictures of any size into tiles of the size of a model's images.

Tiles lie edge to edge from the upper left corner. Where a side is no multiple of the tile's, a last tile is moved back
into the picture, and pixels that an earlier tile has are known to it. A picture with a side shorter than the tile's is
filled up with black, which is known too. (NOTE: ours; the papers have pictures of one size.)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from spn.codec.encoder import Images, Known

Picture = UInt8[Tensor, "_ _ channel"]
"""Levels [height, width, channel]; of any size, so that lists of them can have several."""


@dataclass(frozen=True)
class Tile:
    """One tile of one of the pictures."""

    picture: int
    top: int
    left: int


Streams = list[list[Tile]]


@dataclass(frozen=True)
class Group:
    """Pictures that are coded in tiles of one size."""

    tile: tuple[int, int]
    """Height and width of the tiles."""
    numbers: list[int]
    """Numbers of the pictures; tiles count the pictures of the group."""
    waves: list[Streams]
    """Tiles in the order of coding, divided into streams. Those of one wave do not overlap."""

    @property
    def streams(self) -> Streams:
        """The tiles of each stream."""
        return [stream for wave in self.waves for stream in wave]

    @property
    def num_tiles(self) -> int:
        """Number of tiles."""
        return sum(map(len, self.streams))

    def pictures_of(self, tiles: Sequence[Tile]) -> list[int]:
        """Return the numbers of the pictures of tiles."""
        return [self.numbers[tile.picture] for tile in tiles]

    def canvas(self, pictures: Sequence[Picture]) -> "Canvas":
        """Return a canvas of the group's pictures."""
        return Canvas([pictures[number] for number in self.numbers], *self.tile)

    def batches(self, batch_size: int) -> Iterator[Streams]:
        """Yield neighbouring streams of a wave with at most `batch_size` tiles together, or a single stream."""
        for wave in self.waves:
            for first in range(0, len(wave), step := max(1, batch_size // len(wave[0]))):
                yield wave[first : first + step]


def group_pictures(
    sizes: Sequence[tuple[int, int]], tile: tuple[int, int], multiple: int, tiles_per_stream: int
) -> list[Group]:
    """Group pictures of these sizes, and cut them into tiles.

    If `tile` is (0, 0), each picture is one tile, whose sides are rounded up to a `multiple`.
    """
    tiles = [tuple(-(-side // multiple) * multiple for side in size) if tile == (0, 0) else tile for size in sizes]
    groups = []
    for height, width in dict.fromkeys(tiles):
        numbers = [number for number, each in enumerate(tiles) if each == (height, width)]
        found = _waves([sizes[number] for number in numbers], height, width)
        cut = [[wave[i : i + tiles_per_stream] for i in range(0, len(wave), tiles_per_stream)] for wave in found]
        groups.append(Group((height, width), numbers, cut))
    return groups


def _waves(sizes: Sequence[tuple[int, int]], height: int, width: int) -> Streams:
    """Return the tiles of pictures: first those that lie edge to edge, then those moved along one side, then both."""
    found: Streams = [[], [], []]
    for picture, (rows, columns) in enumerate(sizes):
        for top, is_moved_up in _starts(rows, height):
            for left, is_moved_left in _starts(columns, width):
                found[is_moved_up + is_moved_left].append(Tile(picture, top, left))
    return [wave for wave in found if wave]


def _starts(side: int, tile: int) -> list[tuple[int, bool]]:
    """Return where tiles begin along a side, and whether they are moved."""
    if side <= tile:
        return [(0, False)]
    starts = [(first, False) for first in range(0, side - tile + 1, tile)]
    return starts + [(side - tile, True)] * bool(side % tile)


class Canvas:
    """Pictures that are partly known, from which tiles are cut and into which they are put."""

    def __init__(self, pictures: Sequence[Picture], height: int, width: int) -> None:
        self._pictures = [picture.clone() for picture in pictures]
        self._known = [torch.zeros(picture.shape[:2], dtype=torch.bool) for picture in pictures]
        self._shape = height, width

    @property
    def pictures(self) -> list[Picture]:
        """The pictures as they are so far."""
        return self._pictures

    def cut(self, tiles: Sequence[Tile]) -> tuple[Images, Known]:
        """Return tiles as images, and which of their pixels are known."""
        channels = self._pictures[0].shape[-1]
        images = torch.zeros((len(tiles), *self._shape, channels), dtype=torch.uint8)
        known = torch.ones(images.shape[:3], dtype=torch.bool)
        for number, tile in enumerate(tiles):
            inside = self._inside(tile)
            part = self._pictures[tile.picture][inside]
            images[number, : part.shape[0], : part.shape[1]] = part
            known[number, : part.shape[0], : part.shape[1]] = self._known[tile.picture][inside]
        return images, known

    def put(self, tiles: Sequence[Tile], images: Images) -> None:
        """Put tiles into their pictures, whose pixels are then known."""
        for tile, image in zip(tiles, images, strict=True):
            inside = self._inside(tile)
            part = self._pictures[tile.picture][inside]
            part.copy_(image[: part.shape[0], : part.shape[1]])
            self._known[tile.picture][inside] = True

    def _inside(self, tile: Tile) -> tuple[slice, slice]:
        height, width = self._shape
        return slice(tile.top, tile.top + height), slice(tile.left, tile.left + width)
