"""Descriptions of a model: for the terminal, and as a model card for hubs."""

import json
import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from spn.config import Params

if TYPE_CHECKING:
    from spn.api.chain_model import ChainModel

MOST_COLUMNS = 16
"""Slices up to this number are drawn with spaces between them."""


def tiling(params: Params, chain: str) -> list[str]:
    """Draw a chain's cells: a line for each range of bits, a column for each slice, and a letter for each stage."""
    plans = [plan for plan in params.plans[chain] if plan.noise is None or plan.noise.is_last]
    bits = plans[0].image_bits
    fine = math.lcm(*(plan.scale_factor for plan in plans))
    letters = {plan.name: chr(ord("A") + number) for number, plan in enumerate(plans)}
    cuts = sorted({cut for plan in plans for cut in plan.bits})
    gap = " " if fine**2 <= MOST_COLUMNS else ""
    lines = []
    for start, end in pairwise(cuts):
        cells = [
            next(
                letters[plan.name]
                for plan in plans
                if plan.bits[0] <= start < plan.bits[1]
                and (m % plan.scale_factor, n % plan.scale_factor) in plan.targets
            )
            for m in range(fine)
            for n in range(fine)
        ]
        name = f"bit {start}" if end == start + 1 else f"bits {start} to {end - 1}"
        lines.append(f"{name:<14}{gap.join(cells)}")
    slices = f"{fine * fine} slices in raster order" if fine > 1 else "the whole image"
    return [f"{'':<14}{slices}; bit 0 is the most significant of {bits}", *lines, *_legend(params, chain, letters)]


def _legend(params: Params, chain: str, letters: dict[str, str]) -> list[str]:
    rows = []
    for plan in params.plans[chain]:
        section = params.stages[plan.name]
        order = f", slices in order {' '.join(f'({m},{n})' for m, n in plan.targets)}" if plan.kind == "ordered" else ""
        scale = f", scale {plan.noise.scale} of {plan.noise.num_scales}" if plan.noise else ""
        rows.append(
            f"{letters.get(plan.name, ' ')} {plan.name}: {section.model.family}, {section.model.law} law{order}{scale}"
        )
    return rows


def figures_line(notes: dict[str, Any]) -> str:
    """Return a chain's figure with its standard error, what it is, and over which images."""
    figures = notes["figures"]
    unit = "bits/dim" if figures["dims"] == "sub-pixels" else f"bits per code ({figures['dims']})"
    error = figures["standard_error"]
    spread = "" if error is None else f" ± {error:.4f}"
    at_most = "at most " if figures["estimate"] == "bound" else ""
    kind = "an upper bound" if figures["estimate"] == "bound" else "exact"
    conditional = "" if figures["conditioning"] == "none" else f", {figures['conditioning']}-conditional"
    mixture = f", mixture of {len(figures['views'])} orders" if "views" in figures else ""
    images = f"{figures['num_images']:,} {figures['split']} images"
    return f"{at_most}{figures['bits_per_dim']:.4f}{spread} {unit} ({kind}{mixture}{conditional}, over {images})"


def describe(model: "ChainModel") -> str:
    """Describe a model for the terminal: its data, the chain drawn as a tiling, figures, training, limits."""
    notes, data = model.notes, model.notes["data"]
    height, width, channels = model.shape
    images = f"{height}x{width}x{channels}, {model.params.data.bits} bits"
    parts = {
        "chain": f"{model.chain}, {notes['figures']['num_parameters']:,} parameters stored as {notes['weights']}",
        "data": f"{data['release'] or data['name']}; {images}; digest {data['digest'][:16]}",
        "licence": data["licence"] or "not stated",
        "figure": figures_line(notes),
        "made by": f"spn {notes['version']}, commit {notes['commit'] or 'unknown'}, format {notes['format']}",
        "file": str(model.path),
    }
    facts = tabulate(parts.items(), tablefmt="plain")
    return "\n".join([facts, "", *tiling(model.params, model.chain), "", stage_table(model), "", *limits(model)])


def stage_table(model: "ChainModel", tablefmt: str = "simple") -> str:
    """Return a table of the stages: parameters, figures and training."""
    figures, training = model.notes["figures"]["stages"], model.notes["training"]
    rows = [
        (
            name,
            f"{figures[name]['num_parameters']:,}",
            f"{'≤ ' * model.params.is_bound(name)}{figures[name]['bits_per_dim']:.4f}",
            f"{training[name]['steps']:,} x {training[name]['batch_size']}",
            f"{training[name]['seconds']:,.0f}",
        )
        for name in model.stages
    ]
    header = (
        "stage",
        "parameters",
        "bits/dim" if model.first_stage is None else "bits/code",
        "steps x batch",
        "training (s)",
    )
    return tabulate(rows, header, tablefmt=tablefmt, disable_numparse=True, colalign=("left", *["right"] * 4))


def limits(model: "ChainModel") -> list[str]:
    """Say what the model cannot do."""
    height, width, _ = model.shape
    lines = [
        f"It samples and scores images of {height}x{width} pixels only, like those of its data.",
        "A likelihood tells how well these images are predicted; it is no measure of how good they look, nor of "
        "whether a picture is unusual.",
    ]
    if model.first_stage is not None:
        lines.append("It generates codes, so that its bits per code are no bits/dim of images.")
    if model.views:
        lines.append(
            f"Its law is the mean over {len(model.views)} views of an image ({', '.join(model.views)}), so that the "
            "bits/dim of its stages, of images as they are, do not add up to its figure. It neither codes pictures nor "
            "draws parts of them."
        )
    if "half" in model.notes:
        half = model.notes["half"]
        lines.append(
            f"Its weights are rounded to {model.notes['weights']}: evaluated again, {half['bits_per_dim']:.6f} against "
            f"{half['full_bits_per_dim']:.6f} with float32."
        )
    return lines


def model_card(model: "ChainModel") -> str:
    """Return a model card in Markdown, with the front matter that model hubs expect."""
    notes, data = model.notes, model.notes["data"]
    drawn = "\n".join(tiling(model.params, model.chain))
    facts = "\n".join(f"- {line}" for line in limits(model))
    label = ", label=0" if model.params.num_classes(model.chain) else ""
    return f"""---
{_front_matter(model)}
---

# {_name(model)}

{figures_line(notes)}.

```
{drawn}
```

```python
import spn
model = spn.load("model.safetensors")
images = model.sample(16, seed=1{label})
bits = model.bits_per_dim(images{label})
```

{stage_table(model, "github")}

## Data

{data["release"] or data["name"]}. Licence: {data["licence"] or "not stated"}. {_splits(data)} {data["notes"]}

Digest of the images: `{data["digest"]}`.

## Limits

{facts}

Made by spn {notes["version"]}, commit {notes["commit"] or "unknown"}; {notes["weights"]} weights.
"""


def _name(model: "ChainModel") -> str:
    return f"{model.chain} on {model.notes['data']['name']}"


def _front_matter(model: "ChainModel") -> str:
    """Return the lines from which model hubs know a model's data, licence and figures."""
    data, figures = model.notes["data"], model.notes["figures"]
    kind = "bits_per_dim" if model.first_stage is None else "bits_per_code"
    # Hubs have no name for images given a class.
    task = "other" if model.params.num_classes(model.chain) else "unconditional-image-generation"
    metric = {
        "task": {"type": task},
        "dataset": {"type": data["name"], "name": data["release"] or data["name"], "split": figures["split"]},
        "metrics": [{"type": kind, "value": round(figures["bits_per_dim"], 4), "name": figures_line(model.notes)}],
    }
    front = {
        "library_name": "spn",
        "license": "other",
        "license_name": data["licence"] or "not stated",
        "pipeline_tag": task,
        "tags": ["image-generation", "autoregressive", "subscale-pixel-networks", *sorted(_families(model))],
        "datasets": [data["name"]],
        "metrics": [kind],
        "model-index": [{"name": _name(model), "results": [metric]}],
    }
    # JSON values are YAML, and need no rules of quoting of our own.
    return "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items())


def _families(model: "ChainModel") -> set[str]:
    return {model.params.stages[name].model.family for name in model.stages}


def _splits(data: dict[str, Any]) -> str:
    counts = ", ".join(f"{count:,} {split}" for split, count in data["num_images"].items())
    return f"Images: {counts}."
