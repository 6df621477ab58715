"""A 1D Transformer over the pixels of a slice in raster order (pre-norm; Radford et al. 2019)."""

from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from spn.layers.causal_attention import causal_attention
from spn.layers.elementwise import Dropout
from spn.layers.pixel import PixelLinear
from spn.layers.recompute import Recomputing


class _CausalAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        split = (
            rearrange(part, "b t (head d) -> b head t d", head=self.heads)
            for part in self.queries_keys_values(tokens).chunk(3, dim=-1)
        )
        return self.out(rearrange(causal_attention(*split), "b head t d -> b t (head d)"))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = _CausalAttention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.dropout(self.attention(self.attention_norm(tokens)))
        return tokens + self.dropout(self.mlp(self.mlp_norm(tokens)))


class RasterTransformer(Recomputing):
    """Causal self-attention over pixels; token t sees tokens 0 .. t, so its input must come from before pixel t."""

    def __init__(self, width: int, heads: int, num_layers: int, height: int, columns: int, dropout: float) -> None:
        super().__init__()
        self.row_positions = nn.Parameter(0.02 * torch.randn(height, 1, width))
        self.column_positions = nn.Parameter(0.02 * torch.randn(1, columns, width))
        self.blocks = nn.Sequential(*(_Block(width, heads, dropout) for _ in range(num_layers)))
        self.norm = nn.LayerNorm(width)

    def forward(
        self, features: Float[Tensor, "batch height columns width"]
    ) -> Float[Tensor, "batch height columns width"]:
        """Reshape the slice to 1D, attend, and reshape back to 2D."""
        positioned = features + self.row_positions + self.column_positions
        tokens = positioned.flatten(1, 2)
        for block in self.blocks:
            tokens = self.run_layer(block, tokens)
        return self.norm(tokens).unflatten(1, features.shape[1:3])


class _BlockSteps:
    """The step form of a block, with a key-value cache [2, batch, head, token, width / heads] of the tokens so far."""

    def __init__(self, block: _Block, batch: int, num_tokens: int) -> None:
        attention = block.attention
        enlarge, shrink = cast(nn.Linear, block.mlp[0]), cast(nn.Linear, block.mlp[2])
        self.heads = attention.heads
        self.attention_norm, self.mlp_norm = block.attention_norm, block.mlp_norm
        self.queries_keys_values = PixelLinear(attention.queries_keys_values.weight)
        self.out = PixelLinear(attention.out.weight)
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
        return token + self.shrink(F.gelu(self.enlarge(self.mlp_norm(token))))


class TransformerSteps:
    """The step form of a `RasterTransformer`: one token at a time, with a key-value cache."""

    def __init__(self, transformer: RasterTransformer, batch: int) -> None:
        height, _, width = transformer.row_positions.shape
        self.columns = transformer.column_positions.shape[1]
        self.blocks = [_BlockSteps(cast(_Block, block), batch, height * self.columns) for block in transformer.blocks]
        self.norm = transformer.norm
        self._positions = (transformer.row_positions + transformer.column_positions).detach()
        self._entering = self._positions.new_zeros(batch, self.columns, width)
        self._pixels = self._entering.unbind(1)

    def start_row(self, row: int, context: Float[Tensor, "batch columns width"] | None) -> None:
        """Prepare a row; `context` is added to its tokens."""
        entering = self._positions[row] if context is None else self._positions[row] + context
        self._entering.copy_(entering.expand_as(self._entering))
        self._first = row * self.columns

    def step(self, column: int, token: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
        """Advance the token at `column` of the row."""
        token = token + self._pixels[column]
        for block in self.blocks:
            token = block.step(self._first + column, token)
        return self.norm(token)
