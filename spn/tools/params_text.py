"""The params.yaml that `spn init` writes."""

from spn.data.layout import SPLITS, Split
from spn.files import printable
from spn.tools.budget import Choice, Schedule, scale_factor
from spn.tools.survey import Survey

DRAWN: dict[Split, int] = {"validation": 200, "test": 500}
"""At most this many images are drawn for these splits, and at most a tenth of all."""

LEAST_OF_A_CLASS = 20
"""Folders are taken for classes if they hold at least this many training images on average."""

BITS, HIGH_BITS = 8, 3


def drawn_splits(found: Survey) -> dict[Split, int]:
    """Return how many images to draw for each split that has no folder."""
    num_pooled = found.num_images["train"]
    return {
        split: min(most, max(1, num_pooled // 10)) for split, most in DRAWN.items() if split not in found.num_images
    }


def num_images(found: Survey) -> dict[Split, int]:
    """Return the number of images of each split."""
    drawn = drawn_splits(found)
    counts: dict[Split, int] = {**found.num_images, **drawn, "train": found.num_images["train"] - sum(drawn.values())}
    return {split: counts[split] for split in SPLITS}


def class_names(found: Survey) -> tuple[str, ...]:
    """Return the names of the classes; none if there are too few images of each."""
    are_many = sum(found.classes.values()) >= LEAST_OF_A_CLASS * len(found.classes)
    return tuple(found.classes) if are_many else ()


def params_text(name: str, found: Survey, size: int, minutes: float, choice: Choice) -> str:
    """Return params.yaml with its comments."""
    network, classes = choice.network, class_names(found)
    return f"""\
# The experiment `{name}`: {found.num_pictures:,} pictures, as {size}x{size} images of {BITS} bits.
# No paper gives any of these numbers: all are ours. docs/changing.md of Subscale Pixel Networks explains the keys.
seed: 1  # of weights, batches and dropout

data:
  source: folder
  name: "{name}"  # sources/{name}/ or sources/{name}.zip
  bits: {BITS}
  split_seed: 1
  size: {size}
  channels: {1 if found.is_grey else 3}{"  # all pictures are grey" if found.is_grey else ""}
  fit: resize  # the largest centre square; `crop` takes the centre without resizing
  filter: box
{_splits(found)}{_classes(classes)}{_unreadable(found)}
# What stages share; a stage states what differs.
defaults:
{f"  class_conditional: true{chr(10)}" if classes else ""}\
  # The largest network of four that leaves every stage enough steps in the time below, and fits in memory.
  model:
    family: spn
    width: {network.width}  # of the Transformer and the slice embedder
    heads: {network.heads}
    transformer_layers: 1
    pixelcnn_width: {network.pixelcnn_width}
    pixelcnn_layers: {network.pixelcnn_layers}
    channel_order: head
    embedder_layers: 1
    relative_cells: true
    law: placed_mixture
  # As in presets/cifar10_cpu.yaml, by the trials in docs/learning.md.
  training:
    optimiser: {{name: muon, learning_rate: 0.02, others_learning_rate: 0.008}}
    schedule: cosine
    clip_norm: 1.0
    ema_decay: 0.99

# Steps for about {minutes:g} min of training a chain on the machine where `spn init` ran.
stages:
{_stages(scale_factor(size), choice)}
# Both generate whole images: pixel by pixel, or by slices and bits as in the paper.
chains:
  raster: {{stages: [raster]}}
  multidimensional: {{stages: [first_high, rest_high, low]}}

sampling:
  num_images: 16
  seed: 1
"""


def _stages(factor: int, choice: Choice) -> str:
    cells = {
        "raster": (1, "all", [0, BITS]),
        "first_high": (factor, "first", [0, HIGH_BITS]),
        "rest_high": (factor, "rest", [0, HIGH_BITS]),
        "low": (factor, "all", [HIGH_BITS, BITS]),
    }
    return "".join(_stage(name, *cells[name], schedule) for name, schedule in choice.schedules.items())


def _stage(name: str, factor: int, slices: str, bits: list[int], schedule: Schedule) -> str:
    return f"""\
  {name}:
    scale_factor: {factor}
    slices: {slices}
    bits: {bits}
    training:
      steps: {schedule.steps}
      batch_size: {schedule.batch_size}
      warmup_steps: {min(50, schedule.steps // 10)}
      validate_every: {schedule.validate_every}
"""


def _splits(found: Survey) -> str:
    drawn = drawn_splits(found)
    if not drawn:
        return "  # The splits are the folders train, validation and test.\n"
    lines = (f"  {split}: {count}\n" for split, count in drawn.items())
    return "".join(["  # Images drawn for these splits; the rest is trained on.\n", *lines])


def _classes(names: tuple[str, ...]) -> str:
    if not names:
        return ""
    return f"  num_classes: {len(names)}  # the sub-folders: {printable(names[0])}, ..., {printable(names[-1])}\n"


def _unreadable(found: Survey) -> str:
    if not found.bad:
        return ""
    return f"  unreadable: skip  # {len(found.bad)} pictures that are damaged or too small are left out\n"
