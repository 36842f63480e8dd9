"""Numbers in the sentences of pages that no result table fills, and where each comes from.

A number is one of these: filled by a mark (`<!-- value:... -->`), computed here anew, read from a file that
states it, or no measurement of this repository (a version, a name, what a device has).
"""

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass

from monkeylib import profiles, resources, sizing
from monkeylib.experiments.statement_accuracy import PRECISION
from monkeylib.profiles import build
from tests.support import pages
from tests.support.overfitting import LOSS

# With a fraction, in percent, or with a unit of what is measured.
_UNITS = "GB|MB|kB|ms|s|seconds?|minutes?|hours?|times|points|million|billion|GFLOP/s|TFLOPs?"
NUMBER = re.compile(rf"\d[\d,]*(?:\.\d+)+|\d[\d,]* ?(?:%|×)|\d[\d,]*[ -](?:{_UNITS})\b")


@dataclass(frozen=True)
class Source:
    """Where a number of a page comes from.

    Attributes:
        number: as `NUMBER` reads it from the page.
        file: that states it, from the root of the repository.
        text: how it stands there.
        compute: returns it as the page writes it, without its unit.
        fact: why it is nothing that was measured here.
    """

    number: str
    file: str = ""
    text: str = ""
    compute: Callable[[], str] | None = None
    fact: str = ""

    def problem(self) -> str:
        """Return why the source does not give the number; nothing where it does."""
        if self.compute is not None:
            value = self.compute()
            return "" if self.number.split(" ")[0] == value else f"computed anew, it is {value}"
        if self.file:
            content = (resources.REPOSITORY / self.file).read_text(encoding="utf-8")
            return "" if self.text and self.text in content else f"{self.file} does not state {self.text!r}"
        return "" if self.fact else "it has no source"


def unstated(page: str, text: str | None = None) -> list[str]:
    """Return the numbers in a page's sentences that have no source, in their order."""
    prose = pages.prose(pages.read(page) if text is None else text)
    known = {source.number for source in (*EVERYWHERE, *SOURCES.get(page, ()))}
    return [number for number in NUMBER.findall(prose) if number not in known]


def megabytes(*assets: str) -> str:
    """Return the size of assets together, in whole MB."""
    listed = tomllib.loads((resources.REPOSITORY / "data/assets.toml").read_text(encoding="utf-8"))
    return f"{sum(file['bytes'] for name in assets for file in listed[name]['files']) / 1e6:.0f}"


def installed_weights() -> str:
    """Return the weights of nano-monkey in millions."""
    card = (resources.models() / "nano-monkey/README.md").read_text(encoding="utf-8")
    parts = re.findall(r"^\| [^|]+ \| ([\d,]+) \|$", card, re.MULTILINE)
    return f"{sum(int(part.replace(',', '')) for part in parts) / 1e6:.1f}"


def megabytes_of_a_token() -> str:
    """Return what the paper's model remembers of a token: keys and values of all layers, in bfloat16."""
    text = build.build_config(profiles.load_profile("paper-896")).text_config
    return f"{2 * text.num_hidden_layers * text.hidden_size * 2 / 1e6:.1f}"


def megabytes_of_an_image() -> str:
    """Return what the visual tokens of an image take in the paper's model, in bfloat16."""
    config = build.build_config(profiles.load_profile("paper-896"))
    tokens = 5 * config.resampler_config.queries
    return f"{tokens * config.text_config.hidden_size * 2 / 1e6:.0f}"


def gigabytes_of_grits_scores() -> str:
    """Return the attention scores of a block for 800 x 1333 pixels: patches of 16, 12 heads, float32."""
    patches = (800 // 16) * -(-1333 // 16)
    return f"{12 * patches**2 * 4 / 1e9:.2f}"


def gigabytes_in_float32() -> str:
    """Return the size of the paper's model in float32."""
    config = build.build_config(profiles.load_profile("paper-896"))
    return f"{4 * sum(sizing.count_parameters(config).values()) / 1e9:.0f}"


def _percent(share: float) -> Callable[[], str]:
    return lambda: f"{100 * share:.0f}"


# What means the same on every page.
EVERYWHERE = (
    Source("95 %", fact="the level of every interval"),
    Source("3.11", "pyproject.toml", 'requires-python = ">=3.11"'),
    Source("24 GB", fact="the memory of a device: RTX 3090, L4"),
    Source("1.5", fact="the version in the name LLaVA-1.5"),
    Source("2.0", fact="a version in a name: Apache-2.0, GOT-OCR 2.0"),
    Source("2.5", fact="the version in the name Qwen2.5-VL"),
    Source("100 million", fact="a number of images for which costs are extrapolated"),
    Source("2311.06607", "CITATION.cff", "2311.06607"),
)

SOURCES: dict[str, tuple[Source, ...]] = {
    "cluster/README.md": (
        Source("39 GB", compute=gigabytes_in_float32),
        Source(
            "15 minutes",
            "monkeylib/profiles/schema.py",
            "save_every_minutes: float | None = Field(default=15",
        ),
        Source("15 GB", fact="the memory of a T4 that a program gets"),
    ),
    "data/README.md": (
        Source("6.5", fact="half of 13 pixels"),
        Source("85 %", compute=_percent(PRECISION)),
        Source("0.25", "monkeylib/captions/experts/yolox.py", "0.25"),
    ),
    "docs/answers.md": (
        Source("10 MB", compute=megabytes_of_an_image),
        Source("0.5", compute=megabytes_of_a_token),
    ),
    "docs/faq.md": (
        Source("24.7", fact="what the authors say in issue 46 of their repository"),
        Source("25%", fact="the answer of an example"),
    ),
    "docs/grit.md": (
        Source("2212.00280", fact="GRiT on arXiv"),
        Source("0.85", compute=gigabytes_of_grits_scores),
    ),
    "docs/installation.md": (Source("2.1", "Makefile", "2.1 GB"),),
    "docs/limits.md": (Source("3.6", compute=installed_weights),),
    "docs/metrics.md": tuple(
        Source(version, fact="the version of a scorer that was compared")
        for version in ("1.2", "0.0.2", "1.0.1", "0.7.3", "0.0.20")
    ),
    "docs/own-captions.md": (
        Source("23 MB", compute=lambda: megabytes("yolox-nano", "efficientnet-lite0", "imagenet-names")),
        Source("0.75", "monkeylib/captions/experts/yolox.py", "score_threshold = 0.75"),
        Source("85 %", compute=_percent(PRECISION)),
    ),
    "docs/performance.md": (
        Source("20 minutes", "Makefile", "20 minutes on 2 cores"),
        Source("90 %", fact="where the page speaks of the processor as the limit"),
        Source("27.6", fact="of an earlier run, as its sentence says"),
        Source("14.5", fact="of an earlier run, as its sentence says"),
    ),
    "docs/raising.md": (Source("0.05", compute=lambda: str(LOSS)),),
    "docs/results.md": (Source("80 %", fact="the power that `detectable` stands for"),),
    "docs/weights.md": (
        Source("196 MB", compute=lambda: megabytes("dinov2-small", "smollm2-135m-instruct")),
    ),
}
