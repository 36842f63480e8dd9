"""Follow the links of the built site: `make docs` ends with this.

    python docs/site/check_links.py FOLDER

prints every link of its pages, also of those that were notebooks, which leads to no file or to no anchor.
"""

import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links of a page, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the link or the anchor of a tag."""
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag in ("a", "img", "link", "script"):
            self.links += [values[name] for name in ("href", "src") if values.get(name)]


read_page = cache(Page)


def broken_links(folder: Path) -> list[str]:
    """Return a line for each link that leads nowhere."""
    lines = []
    for path in sorted(folder.rglob("*.html")):
        for link in read_page(path).links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue

            target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            if target.is_dir():
                target = target / "index.html"
            if not target.exists():
                lines.append(f"{path.relative_to(folder)}: no file {link}")
            elif parts.fragment and target.suffix == ".html":
                if unquote(parts.fragment) not in read_page(target).anchors:
                    lines.append(f"{path.relative_to(folder)}: no anchor {link}")
    return lines


def main() -> None:
    """Check the folder that the command line names; end with 1 if a link leads nowhere."""
    folder = Path(sys.argv[1]).resolve()
    lines = broken_links(folder)
    print(*lines, sep="\n")
    print(f"{len(list(folder.rglob('*.html')))} pages, {len(lines)} broken links")
    raise SystemExit(1 if lines else 0)


if __name__ == "__main__":
    main()
