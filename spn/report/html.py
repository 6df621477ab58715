"""What the page of the report is made of: its style, tables, and pictures."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5em; color: #222; background: #fff; }
h1 { margin: 0 0 0.3em; }
h2 { margin: 2em 0 0.5em; padding-top: 0.5em; border-top: 2px solid #ddd; }
h3 { margin: 0.5em 0; font-size: 1em; }
nav a { margin-right: 1.2em; white-space: nowrap; }
p { max-width: 60em; margin: 0 0 0.7em; }
.wide { overflow-x: auto; margin-bottom: 1em; }
table { border-collapse: collapse; }
th, td { padding: 0.3em 1em 0.3em 0; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
.wide th, .wide td { white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.pictures th { font-weight: normal; vertical-align: bottom; max-width: 6em; }
.pictures th { white-space: normal; overflow-wrap: anywhere; }
.pictures td { border: 0; vertical-align: middle; }
.columns { display: flex; flex-wrap: wrap; gap: 0 2.5em; }
.columns > div { flex: 1 1 20em; max-width: 34em; }
.tiles { display: flex; flex-wrap: wrap; gap: 0.7em 1em; margin-bottom: 1em; }
section { display: flex; gap: 1.5em; overflow-x: auto; margin-bottom: 1em; }
figure { margin: 0; }
figcaption { margin-bottom: 0.3em; }
.tiles figcaption { margin: 0; font-size: 12px; line-height: 1.3; font-variant-numeric: tabular-nums; }
img { image-rendering: pixelated; vertical-align: top; }
.drawing { max-width: 100%; image-rendering: auto; }
"""


def page(title: str, parts: Mapping[str, str]) -> str:
    """Lay out a page that loads nothing else; `title` and the names of its parts are text, their content is HTML."""
    links = "".join(f'<a href="#part{number}">{escape(name)}</a>\n' for number, name in enumerate(parts))
    content = "".join(
        f'<h2 id="part{number}">{escape(name)}</h2>\n{part}' for number, (name, part) in enumerate(parts.items())
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n<nav>\n{links}</nav>\n{content}"
        "</body>\n</html>\n"
    )


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int]) -> str:
    """Write a table of text below its caption; `numbers` lists the columns aligned to the right."""
    kinds = [' class="number"' if index in numbers else "" for index in range(len(header))]
    head = "".join(f"<th{kind}>{escape(text)}</th>" for kind, text in zip(kinds, header, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(text)}</td>" for kind, text in zip(kinds, row, strict=True)) + "</tr>\n"
        for row in rows
    )
    return f'<p>{escape(caption)}</p>\n<div class="wide"><table>\n<tr>{head}</tr>\n{body}</table></div>\n'


def picture_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table of pictures, whose cells are HTML; `header` is text."""
    head = "".join(f"<th>{escape(text)}</th>" for text in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table class="pictures">\n<tr>{head}</tr>\n{body}</table></div>\n'


def tiles(captioned: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Lay out pictures, which are HTML, each above its caption, which is lines of text."""
    figures = "".join(
        f"<figure>{content}<figcaption>{'<br>'.join(map(escape, lines))}</figcaption></figure>\n"
        for content, lines in captioned
    )
    return f'<div class="tiles">\n{figures}</div>\n'


def picture(png: bytes, alt: str, attributes: str = "") -> str:
    """Embed a picture."""
    data = base64.b64encode(png).decode()
    return f'<img alt="{escape(alt)}" {attributes}src="data:image/png;base64,{data}">'
