"""HTML report of captioned images: each with its annotations drawn on it, a table of them, and its caption.

On top are the totals of the run; images with failures and problems come first. In a browser, the page is
turned, filtered, ordered and searched, and captions are accepted, corrected or rejected: the reviews are
saved as JSONL (`reviews`). Without scripts, as in a notebook, it shows all of its images.

Annotations are drawn as SVG in the image's own coordinates. Lines and labels have the same size on the page
whatever the image's is. Boxes lie on a white line, so that they are visible on any ground; masks have an
outline, and masks that touch have different colours.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from PIL import Image

from monkeylib import boxes, html_pages
from monkeylib.boxes import Box
from monkeylib.captions import checks
from monkeylib.captions.annotations import Mask, Record, Region, reading_order
from monkeylib.captions.confirmation import count_confirmed
from monkeylib.captions.input_images import InputImage
from monkeylib.captions.report_script import SCRIPT
from monkeylib.captions.totals import Totals, add_up, find_outcome

LEVELS = {"region": "#0b6e99", "segment": "#3f7f33", "line": "#b0437b", "dropped": "#b85c1b"}
WIDTH, HEIGHT = 420, 560  # pixels of the page that an image fills at most

_STYLE = """\
.monkey-page article { display: grid; grid-template-columns: minmax(240px, 420px) minmax(0, 1fr); }
.monkey-page article { gap: 18px; border-top: 1px solid #c9d1d9; padding: 16px 0; }
.monkey-page article[hidden], .monkey-page .controls[hidden] { display: none; }
.monkey-page svg { width: 100%; height: auto; max-height: 560px; display: block; overflow: visible; }
.monkey-page svg .label { font-weight: 600; pointer-events: none; }
.monkey-page .caption { font-size: 16px; margin: 0 0 8px; }
.monkey-page td.text { min-width: 9em; }
.monkey-page tr.dropped td { color: #8a8f98; }
.monkey-page tr.dropped td.text { text-decoration: line-through; }
.monkey-page i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 4px; }
.monkey-page .totals { display: grid; gap: 8px 28px; }
.monkey-page .totals { grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); }
.monkey-page .totals table { height: fit-content; }
.monkey-page .demonstration { background: #fff4d6; border-left: 4px solid #d9a400; padding: 8px 12px; }
.monkey-page .controls { position: sticky; top: 0; background: #fff; padding: 8px 0; z-index: 1; }
.monkey-page .controls > * { margin-right: 10px; }
.monkey-page .outcome { font-weight: 400; font-size: 13px; color: #5d6873; margin-left: 8px; }
.monkey-page .review textarea { width: 100%; box-sizing: border-box; font: inherit; }
.monkey-page .review button.chosen { background: #0b6e99; color: #fff; }
@media (max-width: 720px) { .monkey-page article { grid-template-columns: 1fr; } }
"""

_PAGE = """\
{% if demonstration %}
<p class="demonstration"><strong>A demonstration.</strong> {{ demonstration }}</p>
{% endif %}
{% for note in notes %}
<p class="note">{{ note }}</p>
{% endfor %}
<div class="totals">
{% for title, rows in tables.items() if rows %}
<table>
<tr><th colspan="2">{{ title }}</th></tr>
{% for name, value in rows %}
<tr><td>{{ name }}</td><td class="number">{{ value }}</td></tr>
{% endfor %}
</table>
{% endfor %}
</div>
<p class="controls" hidden>
<label>show <select name="outcome">
<option value="">all images</option>
{% for outcome, count in outcomes.items() %}
<option value="{{ outcome }}">{{ outcome }} ({{ count }})</option>
{% endfor %}
</select></label>
<label>order <select name="order">
<option value="rank">failures and problems first</option>
<option value="confirmed">least confirmed first</option>
<option value="number">as captioned</option>
<option value="name">by name</option>
</select></label>
<input type="search" name="search" placeholder="name or words" aria-label="name or words">
<button type="button" name="previous">‹</button><span class="place"></span>
<button type="button" name="next">›</button>
<a class="save" download="reviews.jsonl">save reviews</a>
</p>
<p class="note">
{% for name, colour in levels.items() %}
<span><i style="background:{{ colour }}"></i>{{ name }}</span>
{% endfor %}
</p>
<div class="articles">
{% for article in articles %}
{{ article }}
{% endfor %}
</div>
"""

_ARTICLE = """\
<article data-name="{{ record.name }}" data-sha256="{{ record.sha256 }}"
 data-caption="{{ record.detailed_caption }}" data-outcome="{{ outcome }}" data-rank="{{ rank }}"
 data-number="{{ position }}" data-confirmed="{{ confirmed_share }}">
<div>{{ image }}</div>
<div>
<h2>{{ record.name }}<span class="outcome">{{ outcome }}</span></h2>
{% if not record.detailed_caption %}
<p class="note">no description</p>
{% else %}
<p class="caption">
{%- for text, unsupported in caption %}
{% if unsupported %}<mark>{{ text }}</mark>{% else %}{{ text }}{% endif %}
{% endfor -%}
</p>
{% endif %}
{% if confirmation.statements %}
<p class="note">a second expert confirms {{ confirmation.confirmed }} of {{ confirmation.statements }} \
statement{{ "" if confirmation.statements == 1 else "s" }}</p>
{% endif %}
{% if record.detailed_caption and record.check and (record.check.grounding < 1 or record.check.problems) %}
<p class="note">grounded {{ "{:.0%}".format(record.check.grounding) }},
{{ record.check.sentences }} sentence{{ "" if record.check.sentences == 1 else "s" }}
{% for problem in record.check.problems %}
<span class="bad">{{ problem }}</span>
{% endfor %}
</p>
{% endif %}
{% for failure in record.failures %}
<p class="bad">{{ failure.stage }}: {{ failure.error }}</p>
{% endfor %}
{% for notice in record.notices %}
<p class="note">{{ notice }}</p>
{% endfor %}
{% if record.original_caption %}
<p><small>original caption</small> {{ record.original_caption }}</p>
{% endif %}
{% for item in record.captions %}
<p><small>{{ item.expert }}</small> {{ item.text }} <small>{{ number(item.score) }}</small></p>
{% endfor %}
{% if legend %}
<table>
<tr><th></th><th>text</th><th>expert</th><th>score</th><th>match</th><th></th></tr>
{% for item in legend %}
<tr class="{{ item.level }}">
<td class="number">{{ loop.index }} <i style="background:{{ item.colour }}"></i></td>
<td class="text">{{ item.text }}</td>
<td>{{ item.expert }}</td>
<td class="number">{{ number(item.score) }}</td>
<td class="number">{{ number(item.match) }}</td>
<td>{{ item.reason }}</td>
</tr>
{% endfor %}
</table>
{% endif %}
</div>
</article>
"""

_SVG = """\
<svg viewBox="0 0 {{ width }} {{ height }}" role="img" aria-label="{{ description }}">
{% for uri in layers %}
<image href="{{ uri }}" width="{{ width }}" height="{{ height }}" preserveAspectRatio="none"/>
{% endfor %}
{% for outline in outlines %}
<polygon points="{{ outline.points }}" fill="none" stroke="white" stroke-opacity="0.7"
 stroke-width="{{ "%.3f" | format(halo) }}"/>
<polygon points="{{ outline.points }}" fill="transparent" stroke="{{ outline.colour }}"
 stroke-width="{{ "%.3f" | format(stroke) }}"
 {%- if outline.dashed %} stroke-dasharray="{{ "%.3f" | format(dash) }}"{% endif %}>
<title>{{ outline.tip }}</title></polygon>
{% endfor %}
{% for label in labels %}
<g class="label"><rect x="{{ "%.3f" | format(label.x) }}" y="{{ "%.3f" | format(label.y) }}"
 width="{{ "%.3f" | format(label.width) }}" height="{{ "%.3f" | format(label.height) }}"
 rx="{{ "%.3f" | format(corner) }}" fill="{{ label.colour }}"/>
<text x="{{ "%.3f" | format(label.x + label.width / 2) }}" y="{{ "%.3f" | format(label.y + baseline) }}"
 font-size="{{ "%.3f" | format(font) }}" fill="white" text-anchor="middle">{{ label.number }}</text></g>
{% endfor %}
</svg>
"""


def build_report(
    records: Sequence[Record],
    sources: Sequence[InputImage],
    *,
    pixels: int = 480,
    title: str = "Annotations and captions",
    notes: Iterable[str] = (),
    totals: Totals | None = None,
    facts: Mapping[str, object] | None = None,
) -> html_pages.Page:
    """Return the report of some images, which a notebook shows and `write` stores.

    Args:
        records: the pipeline's record of each image.
        sources: the images, in the same order.
        pixels: the longer side of an image on the page.
        title: title of the page.
        notes: sentences below the title.
        totals: totals of all records, if the page shows only some of them.
        facts: what else the totals begin with by its name, such as time and cost.

    Raises:
        ValueError: there is not one record for each image.
    """
    if len(records) != len(sources):
        raise ValueError(f"a report needs a record for each image, got {len(records)} for {len(sources)}")

    totals = totals or add_up(records)
    articles = []
    for position, (record, source) in enumerate(zip(records, sources, strict=True)):
        outcome = find_outcome(record)
        articles.append((outcome.rank, position, _article(record, source, pixels, position)))
    # Failures first, and otherwise as captioned.
    articles.sort(key=lambda article: article[:2])

    body = html_pages.render(
        _PAGE,
        levels=LEVELS,
        notes=list(notes),
        demonstration=totals.demonstration(),
        tables=totals.tables(facts or {}),
        outcomes=totals.outcomes_in_order(),
        articles=[article for _, _, article in articles],
    )
    return html_pages.Page(title, body, _STYLE, SCRIPT)


def _article(record: Record, source: InputImage, pixels: int, position: int) -> Markup:
    """Render one image with its annotations beside its captions."""
    unsupported = record.check.unsupported if record.check else ()
    outcome, confirmation = find_outcome(record), count_confirmed(record)
    return html_pages.render(
        _ARTICLE,
        record=record,
        position=position,
        outcome=outcome.text,
        rank=outcome.rank,
        confirmation=confirmation,
        confirmed_share="" if confirmation.share is None else f"{confirmation.share:.4f}",
        image=_image_or_error(record, source, pixels),
        caption=checks.mark_words(record.detailed_caption, unsupported),
        legend=legend_items(record),
        number=_format_score,
    )


def _image_or_error(record: Record, source: InputImage, pixels: int) -> Markup:
    # The image could not be read when it was captioned.
    if not record.width:
        return Markup('<p class="bad">no image</p>')
    try:
        return draw_svg(record, source.open(), pixels)
    except (OSError, ValueError) as error:
        return html_pages.render('<p class="bad">{{ error }}</p>', error=error)


def _format_score(score: float | None) -> str:
    return "" if score is None else f"{score:.2f}"


# --- the legend: one row of the table and one label on the image for each annotation ----------------------


@dataclass(frozen=True)
class LegendItem:
    """An annotation as the image and the table show it, under one number.

    Attributes:
        level: key of `LEVELS`.
        corners: (x, y) in pixels of the image.
        text: text of the annotation.
        expert: name of the expert.
        score: confidence of the expert; of a dropped annotation, the number that decided.
        match: image-text matching score of a region.
        reason: reason of a dropped annotation.
    """

    level: str
    corners: tuple[tuple[float, float], ...]
    text: str
    expert: str
    score: float | None
    match: float | None = None
    reason: str = ""

    @property
    def box(self) -> Box:
        """The upright box around the corners."""
        return boxes.bounding_box(self.corners)

    @property
    def colour(self) -> str:
        """The colour of the level."""
        return LEVELS[self.level]


def legend_items(record: Record) -> list[LegendItem]:
    """Return the regions, the lines in reading order, and the dropped annotations."""
    items = []
    for region in record.regions:
        corners = _box_corners(region.box)
        items.append(LegendItem(region.kind, corners, region.text, region.expert, region.score, region.match))

    for line in reading_order(record.lines):
        items.append(LegendItem("line", line.quad, line.text, line.expert, line.confidence))
    for item in record.dropped:
        corners = _box_corners(item.box)
        items.append(LegendItem("dropped", corners, item.text, item.expert, item.value, reason=item.reason))

    return items


def _box_corners(box: Box) -> tuple[tuple[float, float], ...]:
    x0, y0, x1, y1 = box
    return (x0, y0), (x1, y0), (x1, y1), (x0, y1)


# --- the image --------------------------------------------------------------------------------------------

_FONT, _STROKE, _HALO = 11, 1.6, 3.2  # pixels of the page


def draw_svg(record: Record, image: Image.Image, pixels: int) -> Markup:
    """Draw masks, boxes and labels on an image of at most `pixels` x `pixels`.

    Pointing at a box shows its text; of nested boxes, that of the smallest.
    """
    unit = max(record.width / WIDTH, record.height / HEIGHT)  # pixels of the image in one of the page
    image = image.copy()
    image.thumbnail((pixels, pixels))

    layers = [html_pages.data_uri(image)]
    if any(region.mask for region in record.regions):
        layers.append(html_pages.data_uri(draw_masks(record.regions, image.size), "PNG"))

    # Small boxes come last, so that they lie on top.
    items = legend_items(record)
    outlines = []
    for item in sorted(items, key=lambda item: -boxes.area(item.box)):
        cells = (item.text, item.expert, _format_score(item.score), _format_score(item.match), item.reason)
        outline = {
            "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in item.corners),
            "colour": item.colour,
            "dashed": item.level == "dropped",
            "tip": ", ".join(cell for cell in cells if cell),
        }
        outlines.append(outline)

    return html_pages.render(
        _SVG,
        width=record.width,
        height=record.height,
        description=record.detailed_caption or record.name,
        layers=layers,
        outlines=outlines,
        labels=_labels(items, record, unit),
        halo=_HALO * unit,
        stroke=_STROKE * unit,
        dash=4 * unit,
        corner=2 * unit,
        baseline=(_FONT + 0.5) * unit,
        font=_FONT * unit,
    )


def _labels(items: Sequence[LegendItem], record: Record, unit: float) -> list[dict[str, object]]:
    """Return the label of each item: its number, white on its colour."""
    # A digit is about 0.62 times as wide as the font is high.
    height = (_FONT + 3) * unit
    sizes = []
    for number in range(1, len(items) + 1):
        digits = len(str(number))
        sizes.append(((0.62 * _FONT * digits + 5) * unit, height))

    corners = place_labels([item.box for item in items], sizes, (record.width, record.height))
    labels = []
    for index, item in enumerate(items):
        # Where there is no room for it, the number stands in the table alone.
        if corners[index] is None:
            continue
        x, y = corners[index]
        labels.append(
            {
                "number": index + 1,
                "x": x,
                "y": y,
                "width": sizes[index][0],
                "height": height,
                "colour": item.colour,
            }
        )

    return labels


# --- masks ------------------------------------------------------------------------------------------------

_MASK_COLOURS = ("#5a9a4a", "#7d6bb0", "#0b6e99", "#e0b020", "#b0437b", "#3aa6a0", "#d9622b", "#8a5a3c")
_MASK_OPACITY = 90  # of 255


def draw_masks(regions: Sequence[Region], size: tuple[int, int]) -> Image.Image:
    """Return the masks of regions as transparent colours with an outline, the smallest on top."""
    masked = [(region.box, region.mask) for region in regions if region.mask is not None]

    masked.sort(key=lambda pair: -pair[1].area)
    colours = _distinct_colours([box for box, _ in masked])

    # Each mask as a transparent area and an opaque outline; later, smaller masks cover larger ones.
    canvas = np.zeros((size[1], size[0], 4), dtype=np.uint8)
    for (_, mask), colour in zip(masked, colours, strict=True):
        inside = _resize_mask(mask, size)
        rgb = [*bytes.fromhex(colour.lstrip("#"))]
        canvas[inside] = [*rgb, _MASK_OPACITY]
        canvas[inside & ~_erode(inside)] = [*rgb, 255]

    return Image.fromarray(canvas, "RGBA")


def _resize_mask(mask: Mask, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(mask.array()).resize(size, Image.Resampling.NEAREST))


def _erode(inside: np.ndarray) -> np.ndarray:
    """Return a mask without the pixels at its edge; the border of the image is no edge."""
    padded = np.pad(inside, 1, mode="edge")
    above, below = padded[:-2, 1:-1], padded[2:, 1:-1]
    left, right = padded[1:-1, :-2], padded[1:-1, 2:]
    return inside & above & below & left & right


def _distinct_colours(mask_boxes: Sequence[Box]) -> list[str]:
    """Return a colour for each box that no box it touches has, as long as there are enough colours."""
    colours: list[str] = []
    for number, box in enumerate(mask_boxes):
        taken = {colours[other] for other in range(number) if boxes.touch(box, mask_boxes[other])}

        # Begin the search at another colour for each mask, so that all colours are used.
        first = number % len(_MASK_COLOURS)
        candidates = [*_MASK_COLOURS[first:], *_MASK_COLOURS[:first]]
        free = [colour for colour in candidates if colour not in taken]
        colours.append(free[0] if free else candidates[0])

    return colours


# --- label placement --------------------------------------------------------------------------------------

_SEARCH_STEP = 0.5  # of a label's size


def place_labels(
    label_boxes: Sequence[Box], sizes: Sequence[tuple[float, float]], image_size: tuple[float, float]
) -> list[tuple[float, float] | None]:
    """Return the top left corners of labels, one for each box, inside an image, none on another.

    A label stands at a corner of its box if one is free (outside a box that it would hide), else at the
    nearest free place. Where there is none, there is no label: None.

    Args:
        label_boxes: the boxes that the labels belong to.
        sizes: width and height of each label.
        image_size: width and height of the image.
    """
    placed: list[Box] = []
    corners: list[tuple[float, float] | None] = []
    for box, (width, height) in zip(label_boxes, sizes, strict=True):
        corner = _free_place(box, (width, height), image_size, placed)
        corners.append(corner)
        if corner is not None:
            x, y = corner
            placed.append((x, y, x + width, y + height))

    return corners


def _free_place(
    box: Box, size: tuple[float, float], image_size: tuple[float, float], placed: Sequence[Box]
) -> tuple[float, float] | None:
    width, height = size

    # Corners first; places all over the image only if none of them is free.
    for candidates in (_corner_places(box, size), _all_places(box, size, image_size)):
        for x, y in candidates:
            # Keep the label inside the image.
            x = min(max(0.0, x), max(0.0, image_size[0] - width))
            y = min(max(0.0, y), max(0.0, image_size[1] - height))

            label = (x, y, x + width, y + height)
            if not any(boxes.intersection_area(label, other) for other in placed):
                return x, y

    return None


def _corner_places(box: Box, size: tuple[float, float]) -> list[tuple[float, float]]:
    """Return places at the corners of a box; inside a large box first, outside a small one first."""
    x0, y0, x1, y1 = box
    width, height = size

    inside = [(x0, y0), (x1 - width, y0), (x0, y1 - height), (x1 - width, y1 - height)]
    outside = [
        (x0 - width, y0),
        (x1, y0),
        (x0, y0 - height),
        (x1 - width, y0 - height),
        (x0, y1),
        (x1 - width, y1),
    ]

    # A label inside a small box would hide what it is about.
    is_small = x1 - x0 < 3 * width or y1 - y0 < 2 * height
    return [*outside, *inside] if is_small else [*inside, *outside]


def _all_places(
    box: Box, size: tuple[float, float], image_size: tuple[float, float]
) -> list[tuple[float, float]]:
    """Return places all over the image, those next to the box's first corner first."""
    step_x, step_y = size[0] * _SEARCH_STEP, size[1] * _SEARCH_STEP
    columns = max(1, int(image_size[0] / step_x))
    rows = max(1, int(image_size[1] / step_y))

    places = [(column * step_x, row * step_y) for column in range(columns) for row in range(rows)]
    return sorted(places, key=lambda place: (place[0] - box[0]) ** 2 + (place[1] - box[1]) ** 2)
