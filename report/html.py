"""Writes a page as one self-contained HTML file, with style, script, figures and images inside."""

from __future__ import annotations

import base64
import io
import json
import re
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from report import charts, page
from report.runs import RunLog
from training.provenance import commits

FOLDER = Path(__file__).parent
SPRITE_COLUMNS = 50


def render(title: str, blocks: list[page.Block]) -> str:
    """Return the text of the HTML file."""
    writer = _Writer()
    body = "\n".join(writer.block(block) for block in blocks)
    contents = "".join(
        f'<li><a href="#{anchor(block.text)}">{escape(block.text)}</a></li>'
        for block in blocks
        if isinstance(block, page.Heading) and block.level == 2
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>
{theme()}
{(FOLDER / "page.css").read_text()}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<nav aria-label="Contents"><ul>{contents}</ul></nav>
<button type="button" id="theme" aria-label="Light or dark theme">◐</button>
</header>
<main>
{body}
</main>
{"".join(writer.data)}
<script>
{(FOLDER / "page.js").read_text()}</script>
</body>
</html>
"""


def theme() -> str:
    """Return CSS that defines the colours of ``report.charts`` as variables, for both themes."""
    light = "".join(f"{name}: {colour}; " for colour, name in charts.VARIABLES.items())
    dark = "".join(f"{name}: {colour}; " for name, colour in charts.DARK.items())
    return (
        f":root {{ {light}}}\n:root[data-theme=dark] {{ {dark}color-scheme: dark; }}\n"
        f":root[data-theme=light] {{ color-scheme: light; }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root:not([data-theme=light]) {{ {dark}}} }}"
    )


def anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def inline(parts: page.Parts) -> str:
    written = []
    for part in page.parts_of(parts):
        if isinstance(part, page.Value):
            source = escape(part.source)
            written.append(
                f'<data value="{part.value!r}" data-from="{source}" title="{source}">'
                f"{escape(part.text)}</data>"
            )
        elif isinstance(part, page.Code):
            written.append(f"<code>{escape(part.text)}</code>")
        else:
            written.append(escape(part))
    return "".join(written)


def provenance(runs: tuple[RunLog, ...]) -> str:
    """Return the small print under a figure: its runs, each with the command that made it."""
    lines = "".join(
        f"<li><b>{escape(run.name)}</b>, seed {escape(str(run.metadata['seed']))}, commit "
        f"{escape(commits(run.metadata))}, <code>{escape(run.metadata['command'])}</code></li>"
        for run in runs
    )
    made = f'<ul class="made">{lines}</ul>' if lines else ""
    return (
        f"<details><summary>made from {len(runs)} runs</summary>{made}</details>"
        if len(runs) > 2
        else made
    )


def figcaption(block: page.Table | page.Figured) -> str:
    return f"<figcaption>{inline(block.caption)}{provenance(block.runs)}</figcaption>"


def data_uri(image: np.ndarray) -> str:
    """Encode an image (H, W, 3) uint8.

    Images of at most 256 colours, such as masks, are encoded without loss, photographs as JPEG.
    """
    content = io.BytesIO()
    picture = Image.fromarray(image)
    if picture.getcolors(256) is None:
        kind = "jpeg"
        picture.save(content, kind, quality=88, subsampling=0)
    else:
        kind = "png"
        paletted = picture.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        # The octree may merge similar colours.
        is_exact = np.array_equal(np.asarray(paletted.convert("RGB")), image)
        (paletted if is_exact else picture).save(content, kind, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"


def tiled(images: np.ndarray) -> np.ndarray:
    """Tile images (N, h, w, 3) uint8 in rows of ``SPRITE_COLUMNS``, from the top left."""
    count, height, width, _ = images.shape
    rows = -(-count // SPRITE_COLUMNS)
    sheet = np.zeros((rows * SPRITE_COLUMNS, height, width, 3), dtype=np.uint8)
    sheet[:count] = images
    sheet = sheet.reshape(rows, SPRITE_COLUMNS, height, width, 3)
    return sheet.swapaxes(1, 2).reshape(rows * height, -1, 3)


class _Writer:
    """Writes blocks and collects the data that several of them share."""

    def __init__(self) -> None:
        self.data: list[str] = []
        self._sprites: dict[int, str] = {}
        self._count = 0

    def block(self, block: page.Block) -> str:
        match block:
            case page.Heading():
                level, text = block.level, escape(block.text)
                # Chapters have names of their own; their parts may be called alike.
                id_of = f' id="{anchor(block.text)}"' if level == 2 else ""
                return f"<h{level}{id_of}>{text}</h{level}>"
            case page.Text():
                return f"<p>{inline(block.parts)}</p>"
            case page.Grid():
                return f'<div class="grid">{"".join(self.block(one) for one in block.blocks)}</div>'
            case page.Gap():
                made_by = f"<br>To make it, run <code>{escape(block.command)}</code>"
                return f'<aside class="gap"><b>Missing:</b> {escape(block.what)}{made_by}</aside>'
            case page.Table():
                return self._table(block)
            case page.Drawing():
                svg = charts.svg(block.figure).replace(
                    "<svg ", f'<svg role="img" aria-label="{escape(block.alt)}" ', 1
                )
                return self._figure(svg, block)
            case page.Points():
                return self._points(block)
            case page.Layers():
                return self._layers(block)

    def _figure(self, content: str, block: page.Figured, kind: str = "") -> str:
        return f"<figure{kind}>{content}{figcaption(block)}</figure>"

    def _table(self, table: page.Table) -> str:
        head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.header)
        rows = "".join(
            f'<tr><th scope="row">{inline(first)}</th>'
            f"{''.join(f'<td>{inline(cell)}</td>' for cell in rest)}</tr>"
            for first, *rest in (row.values() for row in table.rows)
        )
        inner = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        scroll = f'<div class="scroll" tabindex="0">{inner}</div>'
        return f'<figure class="table">{figcaption(table)}{scroll}</figure>'

    def _points(self, points: page.Points) -> str:
        low, high = points.xy.min(0), points.xy.max(0)
        spread = np.where(high > low, high - low, 1)
        places = np.round((points.xy - low) / spread * 10_000).astype(int)
        content = {
            "x": places[:, 0].tolist(),
            "y": (10_000 - places[:, 1]).tolist(),
            "labels": points.labels.tolist(),
            "classes": points.classes,
            "colours": points.colours,
            "sprite": self._sprite(points.images),
            "columns": SPRITE_COLUMNS,
            "height": points.images.shape[1],
            "width": points.images.shape[2],
        }
        # Escape "<", so that no "</script>" in the data can end the element.
        text = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
        name = self._name("points")
        self.data.append(f'<script type="application/json" id="{name}">{text}</script>\n')
        canvas = (
            '<canvas width="840" height="840" tabindex="0" role="img" '
            f'aria-label="{escape(points.alt)}"></canvas>'
        )
        tip = '<div class="tip" hidden><canvas></canvas><span></span></div>'
        return self._figure(f'<div class="points" data-points="{name}">{canvas}{tip}</div>', points)

    def _sprite(self, images: np.ndarray) -> str:
        if id(images) not in self._sprites:
            name = self._sprites[id(images)] = self._name("sprite")
            self.data.append(f'<img hidden id="{name}" alt="" src="{data_uri(tiled(images))}">\n')
        return self._sprites[id(images)]

    def _layers(self, block: page.Layers) -> str:
        names = list(block.layers)
        pictures = "".join(
            f'<img src="{data_uri(image)}" width="{image.shape[1]}" height="{image.shape[0]}" '
            f'alt="{escape(f"{block.alt}: {name}")}" data-layer="{k}">'
            for k, (name, image) in enumerate(block.layers.items())
        )
        buttons = "".join(
            f'<button type="button" data-to="{k}" aria-pressed="{str(k == 0).lower()}">'
            f"{escape(name)}</button>"
            for k, name in enumerate(names)
        )
        label = escape(f"{block.alt}: from {' to '.join(names)}")
        slider = (
            f'<input type="range" min="0" max="{len(names) - 1}" step="0.01" value="0" '
            f'aria-label="{label}">'
        )
        legend = "".join(
            f'<li><i style="background:{escape(colour)}"></i>{escape(name)}</li>'
            for name, colour in block.legend.items()
        )
        legend = f'<ul class="legend">{legend}</ul>' if legend else ""
        content = (
            f'<div class="stack">{pictures}</div>{slider}<div class="steps">{buttons}</div>{legend}'
        )
        return self._figure(content, block, ' class="layers"')

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}-{self._count}"
