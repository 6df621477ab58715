"""A trained chain in memory: it samples, scores, and tells where it comes from."""

import copy
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch

from spn.api import completion
from spn.api.arguments import (
    EncodeOptions,
    Label,
    SampleOptions,
    ScoreOptions,
    labels_of,
    positive,
    stage_names,
    temperatures_of,
    whole_number,
)
from spn.api.arrays import Array, Images, as_levels, as_picture, like
from spn.api.chain_walk import ChainWalk
from spn.api.completion import Drawing, DrawOptions, Likeliest
from spn.api.filler import decode, encode
from spn.api.model_file import Loaded
from spn.api.probe import Part
from spn.config import ChainSection, InputError, Params
from spn.data.in_memory import ImagesInMemory
from spn.evaluation.evaluate import EVALUATION_BATCH_SIZE, stage_nats, sub_pixel_nats
from spn.evaluation.views import mix_nats
from spn.files import json_digest
from spn.first_stages import VqAutoencoder
from spn.generation import sample_chain_stage
from spn.generation.sample import SAMPLING_BATCH_SIZE
from spn.generation.views import apply_views, drawn_views
from spn.image import apply_view
from spn.likelihood import bits_per_dim
from spn.machine import device_of
from spn.notes import TENSORS_SEAL
from spn.stages import build_stage

if TYPE_CHECKING:
    from spn.api.coding import Coded


class ChainModel:
    """A trained chain, as `spn.load` returns it.

    Images are uint8 [N, H, W, C], as levels 0 to 2^bits - 1 of the modelled depth `params.data.bits`. NumPy arrays and
    torch tensors are accepted, and the same kind is returned.
    """

    def __init__(self, loaded: Loaded, path: Path) -> None:
        self.params: Params = loaded.params
        """The parameters of the chain: `data`, `stages`, `chains` and others, as in params.yaml."""
        self.chain: str = loaded.chain
        """The name of the chain."""
        self.stages: dict[str, Part] = loaded.parts
        """The stages in the order of generation, each as (stage, network): how it cuts an image, and the network."""
        self.first_stage: VqAutoencoder | None = loaded.first_stage
        """The auto-encoder whose codes the chain generates; None for a chain of pixels."""
        self.notes: dict[str, Any] = loaded.notes
        """Everything else in the file: figures, data, training, versions, probe."""
        self.path: Path = path
        """The file that it was loaded from."""
        self.device = torch.device("cpu")
        """Where the networks are."""

    def __repr__(self) -> str:
        return (
            f"ChainModel({self.chain!r}, stages={list(self.stages)}, shape={self.shape}, bits={self.params.data.bits})"
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images."""
        return self.params.data.shape

    @property
    def num_dims(self) -> int:
        """Number of sub-pixels of an image, or of its codes, by which nats are divided."""
        return math.prod(self._grid_shape)

    @property
    def is_bound(self) -> bool:
        """Whether `nats` and `bits_per_dim` are upper bounds."""
        return any(map(self.params.is_bound, self.stages))

    @property
    def views(self) -> tuple[str, ...]:
        """The views over which the chain is a mixture of orders; empty for a chain of one order."""
        return self._section.views

    @property
    def digest(self) -> str:
        """SHA-256 of what the model is: weights, parameters and chain; not of figures and remarks."""
        return json_digest(
            {TENSORS_SEAL: self.notes[TENSORS_SEAL], "params": self.notes["params"], "chain": self.chain}
        )

    @property
    def card(self) -> str:
        """A model card in Markdown, with the front matter that model hubs expect."""
        from spn.api.card import model_card

        return model_card(self)

    def to(self, device: str | torch.device) -> "ChainModel":
        """Move the networks to a device, such as "cuda"; return the model.

        Raises InputError if this machine has no such device; the model then stays where it is.
        """
        place = device_of("device", device)
        self.stages = {
            name: Part(build_stage(stage.plan, self._grid_shape, place), network.to(place))
            for name, (stage, network) in self.stages.items()
        }
        if self.first_stage is not None:
            self.first_stage = self.first_stage.to(place)
        self.device = place
        return self

    def sample(self, num_images: int | None = None, **options: Unpack[SampleOptions]) -> Any:
        """Sample images; return uint8 [num_images, H, W, C].

        Options and errors are those of `sample_stages`.
        """
        ((_, images),) = deque(self.sample_stages(num_images, **options), maxlen=1)
        return images

    def sample_stages(
        self,
        num_images: int | None = None,
        *,
        seed: int = 1,
        temperature: float | Mapping[str, float] | None = None,
        label: Label | None = None,
        batch_size: int = SAMPLING_BATCH_SIZE,
        device: str | torch.device | None = None,
        exact: bool = False,
        given: Array | None = None,
        stages: Sequence[str] | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """Sample stage by stage; yield the name of each stage and the images after it, uint8 [num_images, H, W, C].

        Image i depends on (`seed`, i) and its label, and not on the batch: with `exact`, which computes in float64, bit
        for bit; else but for the last bit of float32, which in rare cases changes a draw. `temperature` is that of all
        stages, or of those named; by default the chain's own. `label` is by default i mod the number of classes.
        `stages` are the stages to run, neighbours in the chain's order; if the first of them is not the chain's,
        `given` holds images with everything that the stages before it generate. A mixture of orders draws a view of
        each image from (`seed`, i), samples the view and undoes it. Raises InputError for arguments that do not fit
        the chain. `device` moves the networks there, as `to` does.
        """
        names = stage_names(stages, list(self.stages))
        levels = self._given(given, names[0], num_images)
        count = len(levels) if levels is not None else num_images
        if count is None:
            raise InputError("num_images: expected a positive whole number, got None")
        count, batch_size = positive("num_images", count), positive("batch_size", batch_size)
        seed = whole_number("seed", seed)
        if levels is None:
            # First, because it fails at once if so many images do not fit into memory.
            levels = torch.zeros((count, *self._grid_shape), dtype=torch.uint8)
        labels = labels_of(self.params, self.chain, count, label, is_sampling=True)
        temperatures = temperatures_of(self._section, temperature)
        if device is not None:
            self.to(device)
        views = drawn_views(self.views, count, seed)
        levels = apply_views(levels, views)
        for name in names:
            stage, network = self.stages[name]
            levels = sample_chain_stage(
                stage,
                copy.deepcopy(network).double() if exact else network,
                levels,
                num_images=count,
                seed=seed,
                temperature=temperatures[name],
                top_k=self._section.top_k.get(name),
                batch_size=batch_size,
                labels=labels,
            )
            yield name, like(given, decode(self.first_stage, apply_views(levels, views)))

    def upscale(
        self, images: Array | None = None, num_images: int | None = None, **options: Unpack[DrawOptions]
    ) -> Any:
        """Draw larger images [draws, N, H, W, C], whose pixels [::S, ::S] are `images` [N, H/S, W/S, C], exactly.

        Without images, `num_images` samples of the stages that generate slice (0,0) alone are gone on from. Raises
        InputError if the chain does not generate slice (0,0) first; see `inpaint` for all else.
        """
        return completion.upscale(self, images, num_images, Drawing(**options))

    def deepen(self, images: Array | None = None, num_images: int | None = None, **options: Unpack[DrawOptions]) -> Any:
        """Draw images [draws, N, H, W, C], whose high bits are those of `images` [N, H, W, C], exactly.

        High bits are what the stages before the first of low bits generate; those of `num_images` samples without
        images. Raises InputError if the chain has no stage of low bits; see `inpaint` for all else.
        """
        return completion.deepen(self, images, num_images, Drawing(**options))

    def inpaint(self, images: Array, hidden: Array, *, repeats: int = 1, **options: Unpack[DrawOptions]) -> Any:
        """Draw the hidden pixels of images; return uint8 [draws, N, H, W, C], whose known pixels are those of images.

        `hidden` is bool [H, W] or [N, H, W]. Hidden pixels are drawn in the chain's order, given what comes before
        them; only scales of a diffusion see what comes after, and are drawn `repeats` times. Draw d of image i depends
        on (`seed`, d * N + i), not on the batch. Options and errors are those of `sample_stages`, and `draws`.
        """
        return completion.inpaint(self, images, hidden, repeats, Drawing(**options))

    def likeliest(self, drawn: Array, **options: Unpack[ScoreOptions]) -> Likeliest:
        """Choose the likeliest of `drawn` [draws, N, H, W, C] for each image, by the exact nats of whole images.

        Options and errors are those of `nats`. Raises InputError if the chain's nats are bounds, or those of codes.
        """
        return completion.likeliest(self, drawn, options)

    def walk(self, num_images: int, *, label: Label | None = None, exact: bool = False) -> ChainWalk:
        """Return an iterator over all sub-pixels in the order of generation, to draw or to score in a way of one's own.

        It offers the laws of each sub-pixel, and must be given its levels. A chain of codes walks over codes. Raises
        InputError for a mixture of orders.
        """
        completion.check_one_order(self, "to walk over")
        images = torch.zeros((num_images, *self._grid_shape), dtype=torch.uint8, device=self.device)
        labels = labels_of(self.params, self.chain, num_images, label, is_sampling=True)
        return ChainWalk(self._parts(exact), images, None if labels is None else labels.to(self.device))

    def nats(
        self,
        images: Array,
        *,
        per: str = "image",
        label: Label | None = None,
        batch_size: int = EVALUATION_BATCH_SIZE,
        exact: bool = False,
    ) -> Any:
        """Return -log p of images, in nats: exact, or an upper bound (`is_bound`).

        `per` "image" gives float64 [N]; "stage" a dictionary of such arrays; "pixel" float64 [N, H, W], summed over
        channels and stages. `label` has the classes of the images, which a conditional chain needs. `exact` computes in
        float64. `batch_size` counts slices; an image has as many as the stage generates. Bounds draw noise for each
        batch, so that they depend on it and on the other images. A chain of codes scores the codes of the images, pixel
        by pixel of their grid; a mixture of orders only whole images, whose nats are no sum over its stages or pixels.
        Raises InputError for images of another shape, depth or type.
        """
        if self.views and per != "image":
            raise InputError(f"per: expected image for {self.chain}, a mixture of {len(self.views)} orders, got {per}")
        batch_size = positive("batch_size", batch_size)
        levels = encode(self.first_stage, as_levels(images, self.shape, self.params.data.bits), EVALUATION_BATCH_SIZE)
        labels = labels_of(self.params, self.chain, len(levels), label, is_sampling=False)
        place = self.device
        parts = self._parts(exact)
        if self.views:
            of_views = [ImagesInMemory(apply_view(levels, view), labels) for view in self.views]
            mixed = [
                sum(stage_nats(*part, each, "test", place, batch_size) for part in parts.values()) for each in of_views
            ]
            return like(images, mix_nats(np.stack(mixed)))
        reader = ImagesInMemory(levels, labels)
        if per == "pixel":
            maps = [sub_pixel_nats(*part, reader, "test", place, batch_size) for part in parts.values()]
            return like(images, np.sum(maps, axis=0).sum(-1))
        if per not in ("image", "stage"):
            raise InputError(f"per: expected image, stage or pixel, got {per}")
        nats = {name: stage_nats(*part, reader, "test", place, batch_size) for name, part in parts.items()}
        if per == "stage":
            return {name: like(images, each) for name, each in nats.items()}
        return like(images, np.sum(list(nats.values()), axis=0))

    def bits_per_dim(self, images: Array, **options: Unpack[ScoreOptions]) -> Any:
        """Return the bits/dim of images, float64 [N]; of a chain of codes, the bits per code.

        Options and errors are those of `nats`.
        """
        nats: Any = self.nats(images, **options)
        return bits_per_dim(nats, self.num_dims)

    def encode(
        self, images: Array | Sequence[Array], *, label: Label | None = None, **options: Unpack[EncodeOptions]
    ) -> "Coded":
        """Encode images without loss: uint8 [N, H, W, C], or a list of pictures [H, W, C] of any size.

        `label` has the classes of the images, which a conditional chain needs. Returns the coded file and what it
        costs. Options and errors are those of `spn.api.coding.encode`.
        """
        from spn.api.coding import encode

        if "batch_size" in options:
            options["batch_size"] = positive("batch_size", options["batch_size"])
        pictures = [as_picture(each, self.shape[2], self.params.data.bits) for each in images]
        labels = labels_of(self.params, self.chain, len(pictures), label, is_sampling=False)
        return encode(self, pictures, labels, **options)

    def decode(self, content: bytes, *, batch_size: int | None = None) -> Any:
        """Decode what `encode` returned: uint8 [N, H, W, C], or a list of pictures if their sizes differ.

        Raises InputError if the file is damaged, or was written with another model or version.
        """
        from spn.api.coding import DECODING_BATCH_SIZE, decode

        size = DECODING_BATCH_SIZE if batch_size is None else positive("batch_size", batch_size)
        _, pictures = decode(self, content, size)
        arrays = [picture.numpy() for picture in pictures]
        return np.stack(arrays) if len({array.shape for array in arrays}) == 1 else arrays

    def save(self, path: str | Path) -> Path:
        """Write the file that the model was loaded from, byte for byte; return its path.

        A path without the suffix .safetensors is that of a folder in the usual layout of model hubs: `config.json`,
        `model.safetensors` and `README.md`.
        """
        from spn.api.folder import save

        return save(self, Path(path))

    @property
    def _section(self) -> ChainSection:
        return self.params.chains[self.chain]

    @property
    def _grid_shape(self) -> tuple[int, int, int]:
        return self.params.grid_of_codes(self.params.codes(self.chain)).shape

    def _parts(self, exact: bool) -> dict[str, Part]:
        if not exact:
            return self.stages
        return {name: Part(stage, copy.deepcopy(network).double()) for name, (stage, network) in self.stages.items()}

    def _given(self, given: Array | None, first: str, num_images: int | None) -> Images | None:
        if first == next(iter(self.stages)):
            if given is not None:
                raise InputError(f"given: expected nothing for {first}, the first stage of {self.chain}, got images")
            return None
        if given is None:
            raise InputError(f"given: expected images with what the stages before {first} generate, got none")
        levels = encode(
            self.first_stage, as_levels(given, self.shape, self.params.data.bits, "given"), EVALUATION_BATCH_SIZE
        )
        if num_images not in (None, len(levels)):
            raise InputError(f"given: expected {num_images} images, got {len(levels)}")
        return levels
