"""A 1D Transformer over the pixels of a slice in raster order (pre-norm; Radford et al. 2019)."""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from spn.layers.pixel import PixelLinear

Tokens = Float[Tensor, "batch pixel width"]


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
        mixed = F.scaled_dot_product_attention(*split, is_causal=True)
        return self.out(rearrange(mixed, "b head t d -> b t (head d)"))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = _CausalAttention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.dropout(self.attention(self.attention_norm(tokens)))
        return tokens + self.dropout(self.mlp(self.mlp_norm(tokens)))


class RasterTransformer(nn.Module):
    """Causal self-attention over pixels; token t sees tokens up to and with t, so its input must lie before pixel t."""

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
        return self.norm(self.blocks(positioned.flatten(1, 2))).unflatten(1, features.shape[1:3])


class _BlockSteps:
    """The step form of a block, with the keys and values [batch, head, token, width / heads] of the tokens so far."""

    def __init__(self, block: _Block, batch: int, num_tokens: int) -> None:
        attention, enlarge, shrink = block.attention, block.mlp[0], block.mlp[2]
        self.heads = attention.heads
        self.attention_norm, self.mlp_norm = block.attention_norm, block.mlp_norm
        self.queries_keys_values = PixelLinear(attention.queries_keys_values.weight)
        self.out = PixelLinear(attention.out.weight)
        self.enlarge = PixelLinear(enlarge.weight, enlarge.bias)
        self.shrink = PixelLinear(shrink.weight, shrink.bias)
        width = attention.out.in_features
        self._keys, self._values = (
            enlarge.weight.new_zeros(batch, self.heads, num_tokens, width // self.heads) for _ in range(2)
        )

    def start_row(self, length: int) -> None:
        self._seen = self._keys[:, :, :length], self._values[:, :, :length]

    def step(self, token: Tensor, place: Tensor, mask: Tensor) -> Tensor:
        """Advance one token [batch, width] of index `place`."""
        split = self.queries_keys_values(self.attention_norm(token)).view(len(token), 3, self.heads, 1, -1)
        query, key, value = split.unbind(1)
        self._keys.index_copy_(2, place, key)
        self._values.index_copy_(2, place, value)
        # Never is_causal with a single query: it would see the first token alone.
        mixed = F.scaled_dot_product_attention(query, *self._seen, attn_mask=mask)
        token = token + self.out(mixed.view(token.shape))
        return token + self.shrink(F.gelu(self.enlarge(self.mlp_norm(token))))


class TransformerSteps:
    """The step form of a `RasterTransformer`: one token at a time, beside the keys and values of those before."""

    def __init__(self, transformer: RasterTransformer, batch: int) -> None:
        height, _, width = transformer.row_positions.shape
        self.columns = transformer.column_positions.shape[1]
        num_tokens = height * self.columns
        self.blocks = [_BlockSteps(block, batch, num_tokens) for block in transformer.blocks]
        self.norm = transformer.norm
        self._positions = (transformer.row_positions + transformer.column_positions).detach()
        self._entering = self._positions.new_zeros(batch, self.columns, width)
        # Row by row as much of the caches is attended to as exists; in the last row, later columns are masked out.
        later = self._positions.new_full((self.columns, self.columns), -torch.inf).triu(1)
        self._mask = torch.cat((later.new_zeros(self.columns, num_tokens - self.columns), later), dim=1)
        self._places = torch.arange(num_tokens, device=later.device)

    def start_row(self, row: int, context: Float[Tensor, "batch columns width"] | None) -> None:
        """Prepare a row, whose tokens have `context` added to them."""
        entering = self._positions[row] if context is None else self._positions[row] + context
        self._entering.copy_(entering.expand_as(self._entering))
        length = (row + 1) * self.columns
        self._row_mask = self._mask[:, -length:]
        self._row_places = self._places[length - self.columns : length]
        for block in self.blocks:
            block.start_row(length)

    def step(self, column: Int[Tensor, "1"], token: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
        """Advance the token at `column` of the row."""
        token = token + self._entering.index_select(1, column)[:, 0]
        mask, place = self._row_mask.index_select(0, column), self._row_places.index_select(0, column)
        for block in self.blocks:
            token = block.step(token, place, mask)
        return self.norm(token)
