"""Streams of coded bits: `constriction`'s range coder, as a coder of bits with whole-number frequencies.

A model `Categorical(perfect=False)` turns two numbers that sum to 2^24 - 2 into frequencies by adding 1 to each,
exactly; so nothing here depends on floating-point arithmetic.
"""

from collections.abc import Sequence
from typing import Any

import constriction
import numpy as np
from jaxtyping import Float32, Int32, Int64

from spn.codec.descent import FREQUENCY_BITS
from spn.config import InputError

_BIT = constriction.stream.model.Categorical(perfect=False)


def encode_bits(bits: Int64[np.ndarray, " bit"], frequencies: Int64[np.ndarray, " bit"]) -> bytes:
    """Encode bits, given the frequency of 0 of each."""
    encoder = constriction.stream.queue.RangeEncoder()
    encoder.encode(bits.astype(np.int32), _BIT, _rows(frequencies))
    return encoder.get_compressed().astype("<u4").tobytes()


class BitDecoder:
    """Decodes several streams, each for some images of a batch."""

    def __init__(self, streams: Sequence[bytes], counts: Sequence[int]) -> None:
        """Start at the beginning of streams, each of which is that of so many images (`counts`)."""
        self._decoders = [
            constriction.stream.queue.RangeDecoder(np.frombuffer(stream, dtype="<u4").astype(np.uint32))
            for stream in streams
        ]
        self._images = np.repeat(np.arange(len(counts)), counts)

    def decode(
        self, images: Int64[np.ndarray, " bit"], frequencies: Int64[np.ndarray, " bit"]
    ) -> Int64[np.ndarray, " bit"]:
        """Decode the next bit of each of these images, in ascending order, given the frequency of 0.

        Raises InputError if no encoder can have written the stream; else wrong bits are decoded without a word.
        """
        rows, streams = _rows(frequencies), self._images[images]
        edges = np.searchsorted(streams, np.arange(len(self._decoders) + 1))
        parts = [
            _decode(decoder, rows[first:end])
            for decoder, first, end in zip(self._decoders, edges[:-1], edges[1:], strict=True)
            if end > first
        ]
        return np.concatenate([np.zeros(0, dtype=np.int32), *parts]).astype(np.int64)


def _decode(decoder: Any, rows: Float32[np.ndarray, "bit 2"]) -> Int32[np.ndarray, " bit"]:
    try:
        return decoder.decode(_BIT, rows)
    except AssertionError as error:
        raise InputError("expected a stream of these frequencies, got one that no encoder can have written") from error


def _rows(frequencies: Int64[np.ndarray, " bit"]) -> Float32[np.ndarray, "bit 2"]:
    return np.stack([frequencies - 1, (1 << FREQUENCY_BITS) - 1 - frequencies], axis=1).astype(np.float32)
