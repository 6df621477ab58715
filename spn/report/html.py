"""What the pages of the report have in common: style, and tables."""

from collections.abc import Sequence
from html import escape

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5em; color: #222; background: #fff; }
table { border-collapse: collapse; margin: 0.5em 0 1.5em; }
caption, p { text-align: left; max-width: 60em; margin-bottom: 0.5em; }
th, td { padding: 0.3em 1em 0.3em 0; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
section { display: flex; gap: 1.5em; overflow-x: auto; margin-bottom: 2em; }
figure { margin: 0; }
figcaption { margin-bottom: 0.3em; }
img { image-rendering: pixelated; }
"""


def page(title: str, content: str) -> str:
    """Lay out a page that loads nothing else; `title` is text, `content` is HTML."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n{content}</body>\n</html>\n"
    )


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int]) -> str:
    """Write a table of text; `numbers` lists the columns aligned to the right."""
    kinds = [' class="number"' if index in numbers else "" for index in range(len(header))]
    head = "".join(f"<th{kind}>{escape(text)}</th>" for kind, text in zip(kinds, header, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(text)}</td>" for kind, text in zip(kinds, row, strict=True)) + "</tr>\n"
        for row in rows
    )
    return f"<table>\n<caption>{escape(caption)}</caption>\n<tr>{head}</tr>\n{body}</table>\n"
