"""Captions: the words of a class's name, as tokens of a small vocabulary. No other text describes the images.

Tokens are numbered from 1, in the alphabetical order of all words of all names; 0 fills captions that are shorter than
the longest.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from spn.config.errors import InputError
from spn.config.mistakes import did_you_mean

Tokens = tuple[int, ...]
"""A caption, of the length of the longest."""


class Captions(NamedTuple):
    """The captions of all classes, in their order."""

    vocabulary: tuple[str, ...]
    of_classes: tuple[Tokens, ...]

    def tokens(self, text: str) -> Tokens:
        """Turn words of the vocabulary into tokens; raise InputError if there are none, too many, or others."""
        words, length = _words(text), len(self.of_classes[0])
        for word in words:
            if word not in self.vocabulary:
                near = did_you_mean(word, self.vocabulary)
                raise InputError(f"expected words of class names ({', '.join(self.vocabulary)}), got {word}{near}")
        if not 1 <= len(words) <= length:
            raise InputError(f"expected 1 to {length} words, as in class names, got {len(words)}")
        return _padded(words, self.vocabulary, length)


def captions(class_names: Sequence[str]) -> Captions:
    """Make the captions of classes from their names: their words, in lower case, in the same order."""
    every = [_words(name) for name in class_names]
    vocabulary = tuple(sorted({word for words in every for word in words}))
    length = max(map(len, every), default=0)
    return Captions(vocabulary, tuple(_padded(words, vocabulary, length) for words in every))


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _padded(words: Sequence[str], vocabulary: tuple[str, ...], length: int) -> Tokens:
    tokens = [vocabulary.index(word) + 1 for word in words]
    return (*tokens, *[0] * (length - len(tokens)))
