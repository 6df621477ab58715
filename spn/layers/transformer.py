"""A 1D Transformer over the pixels of a slice in raster order (pre-norm; Radford et al. 2019)."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Tokens = Float[Tensor, "batch pixel width"]


class _CausalAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        split = rearrange(
            self.queries_keys_values(tokens), "b t (three head d) -> three b head t d", three=3, head=self.heads
        )
        mixed = F.scaled_dot_product_attention(*split.unbind(0), is_causal=True)
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
