"""A scale of ImageBART in the style of public PyTorch code: our network and loss, written another way.

Queries, keys and values have a product each; attention holds its T x T weights in memory, and a mask is made for it in
every pass; positions are looked up; noise is drawn as floats; the loss holds the logarithms of both posteriors and
networks' laws over all codes at once; the optimiser is torch's default AdamW. With our weights, copied by
`common_scale`, it has the same loss, so that only the style makes a difference in time.
"""

import copy
from typing import cast

import torch
from torch import Tensor, einsum, nn
from torch.nn import functional as F

from spn.config import ImageBartSection
from spn.layers import ChannelHead, RasterTransformer
from spn.models import Model, StageShape
from spn.models.imagebart import ImageBart


class Attention(nn.Module):
    """Attention of tokens to themselves, or to a context."""

    def __init__(self, width: int, heads: int, is_causal: bool) -> None:
        super().__init__()
        self.heads, self.is_causal = heads, is_causal
        self.queries = nn.Linear(width, width, bias=False)
        self.keys = nn.Linear(width, width, bias=False)
        self.values = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, tokens: Tensor, context: Tensor | None = None) -> Tensor:
        """Attend from each token."""
        seen = tokens if context is None else context
        queries, keys, values = (
            each.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for each in (self.queries(tokens), self.keys(seen), self.values(seen))
        )
        weights = einsum("bhid,bhjd->bhij", queries, keys) * queries.shape[-1] ** -0.5
        if self.is_causal:
            place = torch.arange(tokens.shape[1], device=tokens.device)
            weights = weights.masked_fill(place[:, None] < place[None], -torch.finfo(weights.dtype).max)
        mixed = einsum("bhij,bhjd->bhid", weights.softmax(-1), values)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-norm block of the encoder, or of a decoder that sees a context."""

    def __init__(self, width: int, heads: int, is_decoder: bool) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, is_causal=is_decoder)
        self.context_norm = nn.LayerNorm(width) if is_decoder else None
        self.context_attention = Attention(width, heads, is_causal=False) if is_decoder else None
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor, context: Tensor | None) -> Tensor:
        """Attend, then map each token."""
        tokens = tokens + self.attention(self.attention_norm(tokens))
        if self.context_norm is not None and self.context_attention is not None:
            tokens = tokens + self.context_attention(self.context_norm(tokens), context)
        return tokens + self.mlp(self.mlp_norm(tokens))


class Transformer(nn.Module):
    """Embedded codes with positions, blocks, and a norm."""

    def __init__(self, section: ImageBartSection, num_codes: int, num_pixels: int, is_decoder: bool) -> None:
        super().__init__()
        layers = section.decoder_layers if is_decoder else section.encoder_layers
        # One code more, which begins the decoder's sequence.
        self.codes = nn.Embedding(num_codes + 1, section.width)
        self.positions = nn.Embedding(num_pixels, section.width)
        self.blocks = nn.ModuleList(Block(section.width, section.heads, is_decoder) for _ in range(layers))
        self.norm = nn.LayerNorm(section.width)

    def forward(self, codes: Tensor, context: Tensor | None = None) -> Tensor:
        """Return features [batch, pixel, width] of codes [batch, pixel]."""
        tokens = self.codes(codes) + self.positions(torch.arange(codes.shape[1], device=codes.device))
        for block in self.blocks:
            tokens = block(tokens, context)
        return self.norm(tokens)


class CommonScale(nn.Module):
    """Encoder, decoder and loss of a scale t > 1 below the last, in the residual form."""

    def __init__(self, section: ImageBartSection, shape: StageShape, before: float) -> None:
        """`before` is the probability that a code of scale 0 is kept up to scale t - 1."""
        super().__init__()
        assert shape.kept is not None, "a scale"
        self.num_codes, self.before, self.kept = shape.num_levels, before, shape.kept
        num_pixels = shape.height * shape.width
        self.encoder = Transformer(section, shape.num_levels, num_pixels, is_decoder=False)
        self.decoder = Transformer(section, shape.num_levels, num_pixels, is_decoder=True)
        self.hidden = nn.Linear(section.width, section.width)
        self.logits = nn.Linear(section.width, shape.num_levels)

    def forward(self, earlier: Tensor, later: Tensor) -> Tensor:
        """Return the logits [batch, pixel, code] of scale t - 1."""
        start = torch.full_like(earlier[:, :1], self.num_codes)
        features = self.decoder(torch.cat((start, earlier[:, :-1]), dim=1), self.encoder(later))
        logits = self.logits(F.elu(self.hidden(F.elu(features))))
        return logits + self._log_transition(later, self.kept)

    def loss(self, clean: Tensor) -> Tensor:
        """Draw both scales from codes [batch, pixel], and return the mean nats of a code."""
        earlier = self._noised(clean, self.before)
        return self.divergence(clean, earlier, self._noised(earlier, self.kept))

    def divergence(self, clean: Tensor, earlier: Tensor, later: Tensor) -> Tensor:
        """Return the mean divergence of the network's laws from the posterior."""
        log_posterior = self._log_transition(clean, self.before) + self._log_transition(later, self.kept)
        log_posterior = log_posterior.log_softmax(-1)
        log_probs = self(earlier, later).log_softmax(-1)
        return (log_posterior.exp() * (log_posterior - log_probs)).sum(-1).mean()

    def _noised(self, codes: Tensor, kept: float) -> Tensor:
        others = torch.randint(self.num_codes, codes.shape, device=codes.device)
        replaced = torch.bernoulli((1 - kept) * torch.ones(codes.shape, device=codes.device))
        return ((1 - replaced) * codes + replaced * others).long()

    def _log_transition(self, codes: Tensor, kept: float) -> Tensor:
        is_same = F.one_hot(codes, self.num_codes).to(self.logits.weight.dtype)
        return torch.log(kept * is_same + (1 - kept) / self.num_codes)


@torch.no_grad()
def common_scale(ours: Model, common: CommonScale) -> CommonScale:
    """Copy our weights into a common-style twin, in float64; return the twin."""
    ours, common = copy.deepcopy(ours).double(), common.double()
    assert isinstance(ours, ImageBart)
    assert ours.encoder is not None
    assert ours.encoder.embedding is not None
    for theirs, table, source in (
        (common.encoder, ours.encoder.embedding.weight, ours.encoder.transformer),
        (common.decoder, ours.entry.weight, ours.decoder),
    ):
        theirs.codes.weight[: common.num_codes] = table[: common.num_codes]
        theirs.codes.weight[common.num_codes] = 0
        _copy_transformer(theirs, source)
    head = ours.head
    assert isinstance(head, ChannelHead)
    common.hidden.weight.copy_(head.hidden.weight)
    # Without earlier channels, what comes of them is a constant.
    common.hidden.bias.copy_(head.hidden.bias + head.before(torch.zeros(1, 1).double())[0])
    common.logits.load_state_dict(head.output[0].state_dict())
    return common


def _copy_transformer(theirs: Transformer, source: RasterTransformer) -> None:
    theirs.positions.weight.copy_((source.row_positions + source.column_positions).flatten(0, 1))
    theirs.norm.load_state_dict(source.norm.state_dict())
    for block, other in zip(theirs.blocks, source.blocks, strict=True):
        for name in ("attention_norm", "mlp_norm", "mlp", "attention.out"):
            _copy(block, other, name)
        _copy_parts(block, "attention", other.get_submodule("attention.queries_keys_values"))
        if cast(Block, block).context_attention is not None:
            for name in ("context_norm", "context_attention.queries", "context_attention.out"):
                _copy(block, other, name)
            _copy_parts(block, "context_attention", other.get_submodule("context_attention.keys_values"))


def _copy(block: nn.Module, other: nn.Module, name: str) -> None:
    block.get_submodule(name).load_state_dict(other.get_submodule(name).state_dict())


def _copy_parts(block: nn.Module, attention: str, source: nn.Module) -> None:
    """Copy the products that ours has in one."""
    names = ("queries", "keys", "values")
    width = block.get_submodule(attention).get_parameter("queries.weight").shape[1]
    parts = source.get_parameter("weight").split(width)
    for name, weight in zip(names[-len(parts) :], parts, strict=True):
        block.get_submodule(attention).get_parameter(f"{name}.weight").copy_(weight)
