"""The commands in README and docs."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "RESULTS.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str = "") -> Iterator[str]:
    """Yield the code blocks of a page in some language; those of commands name none."""
    lines, current = [], None
    for line in page.read_text().splitlines():
        if not line.startswith("```"):
            lines.append(line)
        elif current is None:
            lines, current = [], line.removeprefix("```")
        else:
            if current == language:
                yield "\n".join(lines)
            current = None


def commands() -> Iterator[tuple[str, str]]:
    """Yield the commands of all pages, each with the name of its page."""
    for page in PAGES:
        for block in blocks(page):
            for line in block.splitlines():
                for part in re.split(r" && | \| ", re.sub(r"\s+#.*", "", line)):
                    if re.match(r"(spn|snakemake|dvc|make) ", part):
                        yield page.name, part.strip()
