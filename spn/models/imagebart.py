"""The reverse network of ImageBART (Esser et al. 2021): p(target | context) by an encoder and a causal decoder.

The encoder attends over the pixels of the context in both directions; the decoder attends over the pixels before, and
to all outputs of the encoder. Without cells of context there is only the decoder. All of it sees levels as categories,
as codes are: each level of each channel or cell has its own embedding, and those of a pixel are added up.

NOTE: the published network reads one grid of codes. Several cells, channels, the meta-position (a token before the
pixels, as the class and the words of a caption are) and the head that orders channels are ours. The published code
looks up codes, classes and numbers of scales in one table, where they collide; here each has its own.
"""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from spn.config import ImageBartSection
from spn.laws import build_head, head_steps
from spn.layers import RasterTransformer, Scale, TransformerSteps, fold_weight_norm
from spn.likelihood import Law
from spn.models.interface import Context, Model, StageShape, Steps, copy_into_buffer
from spn.shapes import Features, Levels, Pixel

SPREAD = 0.02
"""Standard deviation of fresh embeddings (Radford et al. 2019)."""


class Encoder(nn.Module):
    """Turns the cells of context into features of every pixel, each of which has seen all pixels.

    The image's class or the words of its caption, and the meta-position, if there are several, are tokens before those
    of the pixels.
    """

    def __init__(self, section: ImageBartSection, shape: StageShape) -> None:
        super().__init__()
        self.width = section.width
        self.cells = shape.num_cells * shape.channels
        self.context_levels = shape.context_levels
        # For each channel of each cell a row per level, and one more for absence.
        rows = self.cells * (shape.context_levels + 1)
        self.embedding = nn.EmbeddingBag(rows, section.width, mode="sum") if self.cells else None
        self.position = nn.Embedding(shape.num_positions, section.width) if shape.num_positions > 1 else None
        self.label = nn.Embedding(shape.num_classes, section.width) if shape.num_classes else None
        self.words = nn.Embedding(shape.num_words, section.width) if shape.num_words else None
        self.place = nn.Embedding(shape.caption_length, section.width) if shape.num_words else None
        self.transformer = RasterTransformer(
            section.width,
            section.heads,
            section.encoder_layers,
            shape.height,
            shape.width,
            section.dropout,
            is_causal=False,
        )

    def forward(self, context: Context) -> Features:
        """Embed the cells, and let every pixel attend to all of them."""
        return self.transformer(self._pixels(context), prefix=self._prefix(context))

    def _pixels(self, context: Context) -> Features:
        """Add up the embeddings of the cells at each pixel."""
        batch, _, height, width, _ = context.cells.shape
        if self.embedding is None:  # only the prefix tells anything
            return next(self.parameters()).new_zeros(batch, height, width, self.width)
        present = context.present[:, :, None, None, None]
        levels = torch.where(present, context.cells.long(), self.context_levels)
        levels = rearrange(levels, "b k h w c -> (b h w) (k c)")
        summed = self.embedding(levels + _first_rows(self.cells, self.context_levels + 1, levels))
        return rearrange(summed, "(b h w) f -> b h w f", h=height, w=width)

    def _prefix(self, context: Context) -> Float[Tensor, "batch prefix width"] | None:
        tokens = []
        if self.position:
            tokens.append(self.position(context.position)[:, None])
        if self.label:
            tokens.append(self.label(context.label)[:, None])
        if self.words and self.place:
            tokens.append(self.words(context.caption) + self.place.weight)
        return torch.cat(tokens, dim=1) if tokens else None


class ImageBart(Model):
    """Encoder and decoder, then a law per sub-pixel."""

    def __init__(self, section: ImageBartSection, shape: StageShape) -> None:
        super().__init__()
        assert shape.kept is None or 0 <= shape.kept < 1, "a code that always survives leaves nothing to learn"
        self.shape = shape
        self.kept = shape.kept if section.residual else None
        self.encoder = Encoder(section, shape) if shape.num_cells or shape.num_words else None
        self.aligned_context = section.aligned_context
        # Without an encoder, the class is what the decoder sees in place of a pixel before the first.
        self.start = nn.Embedding(shape.num_classes, section.width) if shape.num_classes and not self.encoder else None
        self.entry = nn.Embedding(shape.channels * shape.num_levels, section.width)
        self.decoder = RasterTransformer(
            section.width,
            section.heads,
            section.decoder_layers,
            shape.height,
            shape.width,
            section.dropout,
            sees_context=bool(self.encoder),
        )
        self.scale = Scale(shape.num_levels, shape.high_levels)
        self.head = build_head(section.law, section.width, shape.channels, self.scale, section.mixtures)
        for module in self.modules():
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                nn.init.normal_(module.weight, std=SPREAD)

    def embed_target(self, levels: Levels) -> Float[Tensor, "batch height width channel units"]:
        """Look up the embedding of every sub-pixel, and append its value for the head."""
        embedded = self.entry(levels.long() + _first_rows(self.shape.channels, self.shape.num_levels, levels))
        return torch.cat((embedded, self.scale.embed(levels, embedded.dtype)[..., None]), dim=-1)

    def embed_context(self, context: Context) -> Features | None:
        """Run the encoder; None for a stage without cells of context or captions."""
        return self.encoder(context) if self.encoder else None

    def laws(
        self,
        embedded: Float[Tensor, "batch height width channel units"],
        embedded_context: Features | None,
        context: Context,
    ) -> Law:
        """Attend over the pixels before and over the context; the head makes the laws."""
        pixels, values = embedded[..., :-1].sum(-2), embedded[..., -1]
        tokens = raster_shift(pixels, self.first_token(context))
        if self.aligned_context and embedded_context is not None:
            tokens = tokens + embedded_context
        laws = self.head(self.decoder(tokens, embedded_context), values, context.high)
        log_prior = self.log_prior(context)
        return laws if log_prior is None else laws.tilted(log_prior)

    def first_token(self, context: Context) -> Pixel:
        """Return what stands for the pixel before the first: the class if there is no encoder to see it, or zero."""
        weight = self.entry.weight
        return self.start(context.label) if self.start else weight.new_zeros(len(context.position), weight.shape[1])

    def log_prior(self, context: Context) -> Float[Tensor, "batch height width channel level"] | None:
        """Return the log-probabilities of the target's levels, known only noised; None unless laws are residual.

        From x_t the forward process gives x_{t-1} = k the probability kept [k = x_t] + (1 - kept) / K.
        """
        if self.kept is None:
            return None
        assert context.noised is not None, "a scale of a diffusion is given x_t"
        num_levels = self.shape.num_levels
        is_same = F.one_hot(context.noised.long(), num_levels).to(self.entry.weight.dtype)
        return torch.log(self.kept * is_same + (1 - self.kept) / num_levels)


def raster_shift(pixels: Features, first: Pixel) -> Features:
    """Shift pixels by one in raster order: drop the last, and put `first` first."""
    shifted = torch.cat((first[:, None], pixels.flatten(1, 2)[:, :-1]), dim=1)
    return shifted.unflatten(1, pixels.shape[1:3])


def _first_rows(groups: int, num_rows: int, like: Tensor) -> Int[Tensor, " groups"]:
    """Return where the rows of each of several groups begin in their common table."""
    return torch.arange(groups, device=like.device) * num_rows


class ImageBartSteps(Steps):
    """The step form: the encoder runs once per slice, the decoder once per pixel."""

    def __init__(self, model: ImageBart, batch: int) -> None:
        self.model = model
        self._decoder = TransformerSteps(model.decoder, batch)
        self._head = head_steps(model.head, batch)
        self._tables = model.entry.weight.detach().chunk(model.shape.channels)
        self._token = model.entry.weight.new_zeros(batch, model.entry.embedding_dim)
        self._embedded_context: Features | None = None
        self._high: Tensor | None = None
        self._log_prior: Tensor | None = None

    def begin(self, context: Context) -> None:
        """Begin a batch of slices, given their context."""
        self._embedded_context = copy_into_buffer(self._embedded_context, self.model.embed_context(context))
        if self._embedded_context is not None:
            self._decoder.begin(self._embedded_context)
        self._token.copy_(self.model.first_token(context))
        self._high = copy_into_buffer(self._high, context.high)
        self._log_prior = copy_into_buffer(self._log_prior, self.model.log_prior(context))

    def start_row(self, row: int) -> None:
        """Begin a row, all rows before it being known."""
        self._row = row
        aligned = self._embedded_context if self.model.aligned_context else None
        self._decoder.start_row(row, None if aligned is None else aligned[:, row])

    def start_pixel(self, column: int) -> None:
        """Begin a pixel of the row, all before it being known."""
        self._column = column
        features = self._decoder.step(column, self._token)
        self._head.start(features, None if self._high is None else self._high[:, self._row, column])
        self._token.zero_()

    def law(self, channel: int) -> Law:
        """Return the laws of a channel of the pixel, all before it being known."""
        law = self._head.law(channel)
        return law if self._log_prior is None else law.tilted(self._log_prior[:, self._row, self._column, channel])

    def observe(self, channel: int, levels: Int[Tensor, " batch"]) -> None:
        """Fill in a channel of the pixel."""
        self._token.add_(self._tables[channel][levels])
        self._head.observe(channel, levels)


def build(section: ImageBartSection, shape: StageShape) -> ImageBart:
    """Build the family for a stage of this shape."""
    return ImageBart(section, shape)


def steps(model: ImageBart, batch: int) -> ImageBartSteps:
    """Build the step form, whose weights have their normalisation folded in."""
    return ImageBartSteps(fold_weight_norm(model), batch)
