"""Streams of symbols: `constriction`'s range coder with whole-number frequencies.

A model `Categorical(perfect=False)` turns numbers that sum to 2^24 - 16 into frequencies by adding 1 to each, exactly;
so nothing here depends on floating-point arithmetic.
"""

from collections.abc import Sequence
from typing import Any

import constriction
import numpy as np
from jaxtyping import Float32, Int32, Int64

from spn.codec.symbols import FREQUENCY_BITS, NUM_SYMBOLS, SYMBOL_BITS, Symbol
from spn.config import InputError

_SYMBOL = constriction.stream.model.Categorical(perfect=False)
_EQUAL = (1 << FREQUENCY_BITS) // NUM_SYMBOLS
"""The frequency of each of 16 symbols that are as likely."""


class SymbolEncoder:
    """Encodes symbols one after another in one stream."""

    def __init__(self) -> None:
        self._encoder = constriction.stream.queue.RangeEncoder()

    def encode(self, symbols: Symbol) -> None:
        """Append symbols; of the others only the sums of their frequencies matter."""
        value, below, frequency = symbols
        every = np.arange(len(value))
        rows = np.zeros((len(value), NUM_SYMBOLS), dtype=np.float32)
        # All but three have a frequency of 1: this one, the first, which has what is below it, and the next.
        rows[:, 0] = below - value
        rows[every, value] = frequency - 1
        is_followed = value < NUM_SYMBOLS - 1
        above = (1 << FREQUENCY_BITS) - below - frequency - (NUM_SYMBOLS - 1 - value)
        rows[every[is_followed], value[is_followed] + 1] = above[is_followed]
        self._encoder.encode(value.astype(np.int32), _SYMBOL, rows)

    def encode_offset(self, offset: int) -> None:
        """Append an offset of rounding, whose values are all as likely."""
        value = np.array([offset >> SYMBOL_BITS, offset % NUM_SYMBOLS])
        self.encode(Symbol(value, value * _EQUAL, np.full(2, _EQUAL)))

    def finish(self) -> bytes:
        """Return the stream."""
        return self._encoder.get_compressed().astype("<u4").tobytes()


class SymbolDecoder:
    """Decodes several streams, each for some images of a batch."""

    def __init__(self, streams: Sequence[bytes], counts: Sequence[int]) -> None:
        """Start at the beginning of streams, each of which is that of so many images (`counts`)."""
        self._decoders = [
            constriction.stream.queue.RangeDecoder(np.frombuffer(stream, dtype="<u4").astype(np.uint32))
            for stream in streams
        ]
        self._images = np.repeat(np.arange(len(counts)), counts)

    def decode_offset(self, stream: int) -> int:
        """Decode an offset of rounding from one of the streams."""
        rows = np.full((2, NUM_SYMBOLS), _EQUAL - 1, dtype=np.float32)
        high, low = _decode(self._decoders[stream], rows).tolist()
        return int(high << SYMBOL_BITS | low)

    def decode(
        self, coded: Int64[np.ndarray, " symbol"], frequencies: Int64[np.ndarray, "batch 16"]
    ) -> Int64[np.ndarray, " batch"]:
        """Decode the next symbol of each of the `coded` images, in ascending order; 0 of the others.

        `frequencies` has those of all symbols. Raises InputError if no encoder can have written the stream; else wrong
        symbols are decoded without a word.
        """
        rows = (frequencies[coded] - 1).astype(np.float32)
        symbols = np.zeros(len(frequencies), dtype=np.int64)
        if len(self._decoders) == 1:
            symbols[coded] = _decode(self._decoders[0], rows)
            return symbols
        edges = np.searchsorted(self._images[coded], np.arange(len(self._decoders) + 1))
        for decoder, first, end in zip(self._decoders, edges[:-1], edges[1:], strict=True):
            if end > first:
                symbols[coded[first:end]] = _decode(decoder, rows[first:end])
        return symbols


def _decode(decoder: Any, rows: Float32[np.ndarray, "symbol 16"]) -> Int32[np.ndarray, " symbol"]:
    try:
        return decoder.decode(_SYMBOL, rows)
    except AssertionError as error:
        raise InputError("expected a stream of these frequencies, got one that no encoder can have written") from error
