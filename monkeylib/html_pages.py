"""HTML pages that need no other file: Jinja templates that escape every value, one style, embedded images.

    body = html_pages.render("<img src='{{ image | data_uri }}'> {{ caption }}", image=image, caption=text)
    html_pages.Page("Captions", body).write(folder / "captions.html")

A notebook shows a `Page` as its last expression; there the style is limited to the page's own elements.
"""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from monkeylib import resources

# All rules begin with the page's class, since a notebook puts many pages into one document.
_STYLE = """\
.monkey-page { font: 15px/1.45 system-ui, sans-serif; color: #22303c; max-width: 1200px; margin: 1em auto; }
.monkey-page h1 { font-size: 22px; }
.monkey-page h2 { font-size: 16px; margin: 0 0 6px; }
.monkey-page p, .monkey-page h2, .monkey-page td, .monkey-page dd { overflow-wrap: anywhere; }
.monkey-page table { border-collapse: collapse; width: 100%; font-size: 12.5px; }
.monkey-page td, .monkey-page th { text-align: left; vertical-align: top; padding: 2px 8px 2px 0; }
.monkey-page .number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.monkey-page .note, .monkey-page small { color: #5d6873; }
.monkey-page .bad { color: #a3341b; }
.monkey-page mark { background: #f6d8c2; }
"""

_FRAGMENT = """\
<style>
{{ style }}</style>
<div class="monkey-page">
<h1>{{ title }}</h1>
{{ body }}
</div>
"""

_DOCUMENT = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
</head>
<body>
{{ fragment }}
{% if script %}
<script>
{{ script }}</script>
{% endif %}
</body>
</html>
"""


def data_uri(image: Image.Image, image_format: str = "JPEG", max_side: int | None = None) -> str:
    """Return an image as a `data:` URI for the `src` of an `<img>`; also a filter in templates.

    Args:
        image: the image.
        image_format: "JPEG" (small, without transparency) or "PNG" (exact, with transparency).
        max_side: shrink the image so that no side is longer, in pixels; None keeps its size.
    """
    if max_side is not None:
        # `thumbnail` works in place.
        image = image.copy()
        image.thumbnail((max_side, max_side))

    buffer = io.BytesIO()
    if image_format == "JPEG":
        # JPEG knows no alpha and no palette.
        image.convert("RGB").save(buffer, "JPEG", quality=85)
    else:
        image.save(buffer, image_format, optimize=True)

    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{image_format.lower()};base64,{encoded}"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,  # a misspelt name is an error, not an empty string
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = data_uri
    return environment


_ENVIRONMENT = _environment()


def render(template: str, **values: Any) -> Markup:
    """Fill a Jinja template and return its HTML.

    Values are escaped, except for `Markup`, which is what this function returns: the result of one template
    can be a value of another.

    Raises:
        jinja2.UndefinedError: the template uses a value that isn't given.
    """
    return Markup(_ENVIRONMENT.from_string(template).render(values))


@dataclass(frozen=True)
class Page:
    """A titled page.

    Attributes:
        title: heading and title of the page, as plain text.
        body: HTML below the heading, from `render`.
        style: CSS rules of this kind of page, each below the class `monkey-page`.
        script: JavaScript that adds to the complete document; a notebook shows the page without it.
    """

    title: str
    body: Markup
    style: str = ""
    script: str = ""

    def __repr__(self) -> str:
        return f"Page({self.title!r})"

    def _repr_html_(self) -> str:
        """Return the page as a part of another document, which is how notebooks show it."""
        return render(_FRAGMENT, title=self.title, body=self.body, style=Markup(_STYLE + self.style))

    def html(self) -> str:
        """Return the page as a complete document."""
        fragment, script = Markup(self._repr_html_()), Markup(self.script)
        return render(_DOCUMENT, title=self.title, fragment=fragment, script=script)

    def write(self, path: Path | str) -> Path:
        """Write the document atomically; characters that UTF-8 can't encode become "?"."""
        path = Path(path)
        with resources.atomic_write(path) as temporary:
            temporary.write_bytes(self.html().encode("utf-8", errors="replace"))
        return path
