"""All samples on one page: each chain's grids, stage by stage, beside real images."""

import base64
from html import escape
from pathlib import Path

from spn.config import InputError, Params

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5em; color: #222; background: #fff; }
p { max-width: 60em; }
section { display: flex; gap: 1.5em; overflow-x: auto; margin-bottom: 2em; }
figure { margin: 0; }
figcaption { margin-bottom: 0.3em; }
img { image-rendering: pixelated; }
"""

NOTE = (
    "Samples after each stage, not selected; bits that later stages generate are still 0. Beside them are "
    "the first images of the test split, at the same scale; no model was trained on them."
)


def html_gallery(params: Params, chains: Path, real: Path) -> str:
    """Lay out a row for each chain: the real images, then the grid of samples after each stage.

    The page embeds the pictures in `chains`/{chain}/{stage}/samples.png and at `real`. Raises InputError for one that
    cannot be read.
    """
    title = f"Samples of {escape(params.data.name)}"
    rows = "".join(
        _row(chain, {"real images": real} | {name: chains / chain / name / "samples.png" for name in section.stages})
        for chain, section in params.chains.items()
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<p>{NOTE}</p>\n{rows}</body>\n</html>\n"
    )


def _row(chain: str, pictures: dict[str, Path]) -> str:
    """Lay out the pictures of a chain side by side, stages numbered."""
    figures = "".join(
        f"<figure><figcaption>{f'{place}. ' if place else ''}{escape(name)}</figcaption>"
        f'<img alt="{escape(chain)}: {escape(name)}" '
        f'src="data:image/png;base64,{_base64(path)}"></figure>\n'
        for place, (name, path) in enumerate(pictures.items())
    )
    return f"<h2>{escape(chain)}</h2>\n<section>\n{figures}</section>\n"


def _base64(path: Path) -> str:
    try:
        return base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise InputError(f"{path}: expected a picture of samples: {error.strerror}") from error
