"""Where the time of some work goes: what limits a path that misses its target.

PyTorch's profiler tells the time of its operations, and Python's that of everything else, such as decoding a
file. Both slow the work down a little, so they state shares, not seconds.
"""

import cProfile
import pstats
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

# Words for the operations of PyTorch by their names; the first one that fits.
_OPERATIONS = {
    "matrix products": r"^(_?addmm|b?mm|baddbmm|linear|matmul|mkldnn_linear)",
    "convolutions": r"conv",
    "attention": r"scaled_dot_product|flash_attention",
    "norms": r"layer_norm|batch_norm|rsqrt",
    "activations": r"^(gelu|silu|relu|sigmoid|tanh)",
    "softmax": r"softmax|nll_loss",
    "resizing": r"upsample",
    "copies": r"^(_to_)?copy|^(cat|stack|clone|index|gather|constant_pad|slice_backward|fill|zero|empty)",
    "sums and products of elements": r"^(add|sub|mul|div|pow|square|mean|sum|neg|where)(_|\d|$|\.)",
}  # fmt: skip

# Words for functions outside of PyTorch, as Python's profiler names them.
_FUNCTIONS = {
    "decoding of the file": r"'decode' of 'ImagingDecoder'|decode_jpeg|simplejpeg|decompress",
    "resizing by Pillow": r"'resize' of 'ImagingCore'|'reduce' of 'ImagingCore'",
    "cropping by Pillow": r"'crop' of 'ImagingCore'",
    "conversion of colours by Pillow": r"'convert' of 'ImagingCore'",
    "copies by Pillow": r"'copy' of 'ImagingCore'|_imaging.new",
    "copies between Pillow and NumPy": r"tobytes|frombuffer|'encode' of 'ImagingEncoder'|numpy\.array",
    "search for damage in the file": r"image_damage",
    "NumPy": r"numpy",
}

# What takes less belongs to the rest.
_LEAST_SHARE = 0.03


def shares_of_time(work: Callable[[], Any]) -> dict[str, float]:
    """Return the shares of what takes the time of some work, the largest first, and the rest at the end."""
    start = time.process_time()
    work()
    total = time.process_time() - start

    # Its clock runs on while other programs have the processor; its operations are shares of the whole.
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        wall, processor = time.perf_counter(), time.process_time()
        work()
        busy = (time.process_time() - processor) / (time.perf_counter() - wall)
    seconds: Counter[str] = Counter()
    for event in recorded.key_averages():
        if event.key.startswith("aten::"):
            name = _words(event.key.removeprefix("aten::"), _OPERATIONS)
            seconds[name] += min(1.0, busy) * event.self_cpu_time_total / 1e6

    # An operator such as @ counts as the function that it stands in, so only functions with a name do.
    calls = cProfile.Profile(time.process_time)
    calls.runcall(work)
    for (file, _, function), (_, _, own, _, _) in pstats.Stats(calls).stats.items():
        seconds[_words(f"{file} {function}", _FUNCTIONS)] += own

    del seconds[""]
    total = max(total, sum(seconds.values()))
    shares = {name: value / total for name, value in seconds.most_common() if value >= _LEAST_SHARE * total}
    return {**shares, "Python and the rest": 1 - sum(shares.values())}


def _words(name: str, patterns: dict[str, str]) -> str:
    """Return the words of the first pattern that fits; an empty text where none does."""
    return next((words for words, pattern in patterns.items() if re.search(pattern, name)), "")
