"""A 1D Transformer over the pixels of a slice in raster order (pre-norm; Radford et al. 2019).

Causal it is a decoder, otherwise an encoder; a decoder may also attend to an encoder's outputs.
"""

from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from spn.layers.attention import attention
from spn.layers.elementwise import Dropout
from spn.layers.pixel import PixelLinear
from spn.layers.recompute import Recomputing
from spn.shapes import Features, Pixel


class _SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int, is_causal: bool) -> None:
        super().__init__()
        self.heads, self.is_causal = heads, is_causal
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        split = _by_head(self.queries_keys_values(tokens), 3, self.heads)
        return self.out(_joined(attention(*split, is_causal=self.is_causal)))


class _CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries = nn.Linear(width, width, bias=False)
        self.keys_values = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        (queries,) = _by_head(self.queries(tokens), 1, self.heads)
        keys, values = _by_head(self.keys_values(context), 2, self.heads)
        return self.out(_joined(attention(queries, keys, values, is_causal=False)))


def _by_head(features: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    return rearrange(features, "b t (part head d) -> part b head t d", part=parts, head=heads).unbind(0)


def _joined(mixed: Tensor) -> Tensor:
    return rearrange(mixed, "b head t d -> b t (head d)")


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float, is_causal: bool, sees_context: bool) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = _SelfAttention(width, heads, is_causal)
        self.context_norm = nn.LayerNorm(width) if sees_context else None
        self.context_attention = _CrossAttention(width, heads) if sees_context else None
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = Dropout(dropout)

    def forward(self, tokens: Tensor, context: Tensor | None) -> Tensor:
        tokens = tokens + self.dropout(self.attention(self.attention_norm(tokens)))
        if self.context_norm and self.context_attention:
            tokens = tokens + self.dropout(self.context_attention(self.context_norm(tokens), context))
        return tokens + self.dropout(self.mlp(self.mlp_norm(tokens)))


class RasterTransformer(Recomputing):
    """Self-attention over pixels: causal, or of every token to all tokens.

    Causal, token t sees tokens 0 .. t, so its input must come from before pixel t. With `sees_context`, every token
    also attends to all pixels of a context of the same width, as in the decoder of Vaswani et al. 2017.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        num_layers: int,
        height: int,
        columns: int,
        dropout: float,
        is_causal: bool = True,
        sees_context: bool = False,
    ) -> None:
        super().__init__()
        self.row_positions = nn.Parameter(0.02 * torch.randn(height, 1, width))
        self.column_positions = nn.Parameter(0.02 * torch.randn(1, columns, width))
        self.blocks = nn.Sequential(
            *(_Block(width, heads, dropout, is_causal, sees_context) for _ in range(num_layers))
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        features: Float[Tensor, "batch height columns width"],
        context: Float[Tensor, "batch height columns width"] | None = None,
        prefix: Float[Tensor, "batch prefix width"] | None = None,
    ) -> Float[Tensor, "batch height columns width"]:
        """Reshape the slice to 1D, attend, and reshape back to 2D; the `prefix` is put first, and cut off again."""
        positioned = features + self.row_positions + self.column_positions
        tokens = positioned.flatten(1, 2)
        if prefix is not None:
            tokens = torch.cat((prefix, tokens), dim=1)
        around = None if context is None else context.flatten(1, 2)
        for block in self.blocks:
            tokens = self.run_layer(block, tokens, around)
        if prefix is not None:
            tokens = tokens[:, prefix.shape[1] :]
        # Under autocast norms are float32, which every layer that reads this would round by itself.
        return self.norm(tokens).unflatten(1, features.shape[1:3]).to(features.dtype)


class _BlockSteps:
    """The step form of a block, with a key-value cache [2, batch, head, token, width / heads] of the tokens so far."""

    def __init__(self, block: _Block, batch: int, num_tokens: int) -> None:
        attention = block.attention
        enlarge, shrink = cast(nn.Linear, block.mlp[0]), cast(nn.Linear, block.mlp[2])
        self.heads = attention.heads
        self.attention_norm, self.mlp_norm = block.attention_norm, block.mlp_norm
        self.queries_keys_values = PixelLinear(attention.queries_keys_values.weight)
        self.out = PixelLinear(attention.out.weight)
        self.context_norm = block.context_norm
        self.context = block.context_attention and _ContextSteps(block.context_attention, batch, num_tokens)
        self.enlarge = PixelLinear(enlarge.weight, enlarge.bias)
        self.shrink = PixelLinear(shrink.weight, shrink.bias)
        width = attention.out.in_features
        # Keys and values in one tensor, as the projection makes them, so that each token needs one copy.
        self._cache = enlarge.weight.new_zeros(2, batch, self.heads, num_tokens, width // self.heads)
        self._places = self._cache.unbind(3)

    def step(self, place: int, token: Tensor) -> Tensor:
        """Advance the token [batch, width] of index `place`."""
        split = self.queries_keys_values(self.attention_norm(token)).view(len(token), 3, self.heads, -1).transpose(0, 1)
        self._places[place].copy_(split[1:])
        keys, values = self._cache[:, :, :, : place + 1].unbind(0)
        # Not is_causal, under which a single query would see only the first token.
        mixed = F.scaled_dot_product_attention(split[0].unsqueeze(2), keys, values)
        token = token + self.out(mixed.view(token.shape))
        if self.context_norm and self.context:
            token = token + self.context.step(self.context_norm(token))
        return token + self.shrink(F.gelu(self.enlarge(self.mlp_norm(token))))


class _ContextSteps:
    """The step form of attention to a context, whose keys and values are computed once per slice."""

    def __init__(self, attention: _CrossAttention, batch: int, num_tokens: int) -> None:
        self._attention = attention
        self._queries, self._out = PixelLinear(attention.queries.weight), PixelLinear(attention.out.weight)
        width = attention.out.in_features
        size = (batch, attention.heads, num_tokens, width // attention.heads)
        self._keys, self._values = (attention.out.weight.new_zeros(size) for _ in range(2))

    def begin(self, context: Tensor) -> None:
        """Begin a batch of slices, given the tokens [batch, token, width] of their contexts."""
        keys, values = _by_head(self._attention.keys_values(context), 2, self._attention.heads)
        self._keys.copy_(keys)
        self._values.copy_(values)

    def step(self, token: Tensor) -> Tensor:
        """Attend from a token [batch, width] to the context."""
        queries = self._queries(token).view(len(token), self._attention.heads, 1, -1)
        mixed = F.scaled_dot_product_attention(queries, self._keys, self._values)
        return self._out(mixed.view(token.shape))


class TransformerSteps:
    """The step form of a causal `RasterTransformer`: one token at a time, with a key-value cache."""

    def __init__(self, transformer: RasterTransformer, batch: int) -> None:
        height, _, width = transformer.row_positions.shape
        self.columns = transformer.column_positions.shape[1]
        self.blocks = [_BlockSteps(cast(_Block, block), batch, height * self.columns) for block in transformer.blocks]
        self.norm = transformer.norm
        self._positions = (transformer.row_positions + transformer.column_positions).detach()
        self._entering = self._positions.new_zeros(batch, self.columns, width)
        self._pixels = self._entering.unbind(1)

    def begin(self, context: Features) -> None:
        """Begin a batch of slices, given the context that the tokens attend to; not called if there is none."""
        for block in self.blocks:
            if block.context:
                block.context.begin(context.flatten(1, 2))

    def start_row(self, row: int, context: Float[Tensor, "batch columns width"] | None) -> None:
        """Prepare a row; `context` is added to its tokens."""
        entering = self._positions[row] if context is None else self._positions[row] + context
        self._entering.copy_(entering.expand_as(self._entering))
        self._first = row * self.columns

    def step(self, column: int, token: Pixel) -> Pixel:
        """Advance the token at `column` of the row."""
        token = token + self._pixels[column]
        for block in self.blocks:
            token = block.step(self._first + column, token)
        return self.norm(token)
