"""Gives `dvc plots` a page that needs no network, because DVC's own page loads vega from a CDN.

    python workflow/plots_page.py PAGE

Writes PAGE, which is DVC's own with the vega that Snakemake brings for its reports, and names it in
`.dvc/config.local`. `make install` runs this.
"""

import subprocess
import sys
from pathlib import Path

from dvc_render.html import PAGE_HTML
from snakemake.assets import Assets

SCRIPTS = ("vega/vega.js", "vega-lite/vega-lite.js", "vega-embed/vega-embed.js")
"""In the order in which a page must load them."""


def write_page(page: Path) -> None:
    """Write the page, and make DVC use it in this repository."""
    scripts = "\n".join(f"<script>{Assets.get_content(script)}</script>" for script in SCRIPTS)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(PAGE_HTML.replace("{scripts}", scripts), encoding="utf-8")
    dvc = (sys.executable, "-m", "dvc")
    subprocess.run([*dvc, "config", "--local", "plots.html_template", str(page.absolute())], check=True)


if __name__ == "__main__":
    write_page(Path(sys.argv[1]))
