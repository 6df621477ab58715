"""A 1D Transformer over the pixels of a slice in raster order (pre-norm; Radford et al. 2019)."""

from typing import Any, cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from spn.layers.elementwise import Dropout
from spn.layers.pixel import PixelLinear
from spn.layers.recompute import Recomputing
from spn.machine import default_matmul


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
        return self.out(rearrange(_attend(*split), "b head t d -> b t (head d)"))


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend from each token [batch, head, token, width] to itself and the tokens before."""
    if queries.device.type != "cpu" or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    # On a CPU attention in bfloat16 is slower than in float32, in the backward pass by a factor of two.
    dtype = torch.promote_types(queries.dtype, torch.float32)
    with torch.autocast("cpu", enabled=False):
        return _AttendOnCpu.apply(queries.to(dtype), keys.to(dtype), values.to(dtype)).to(queries.dtype)  # type: ignore[no-untyped-call]


class _AttendOnCpu(torch.autograd.Function):
    """torch's fused kernel, with default products: it multiplies small blocks, which take oneDNN four times as long."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        with default_matmul():
            mixed, log_sums = attend(queries, keys, values, 0.0, True)
        ctx.save_for_backward(queries, keys, values, mixed, log_sums)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        attend_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        with default_matmul():
            return attend_backward(gradient, *ctx.saved_tensors, 0.0, True)


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
