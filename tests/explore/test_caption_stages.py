"""The caption pipeline on one image."""

from PIL import Image

from monkeylib.captions import registry
from monkeylib.captions.filtering import Thresholds
from monkeylib.explore.caption_stages import available_experts, filter_again, run_stages
from tests.support.caption_models import Colours, Halves


def test_stages_add_to_the_record_and_the_filter_can_move():
    image = Image.new("RGB", (40, 30), "red")
    results = list(run_stages(image, [Colours(), Halves()]))
    assert [len(result.record.regions) for result in results[:-1]] == [1, 3]

    unfiltered, last = results[-2].record, results[-1].record
    assert not unfiltered.detailed_caption and last.detailed_caption
    assert (last.width, last.height) == image.size
    assert filter_again(unfiltered, Thresholds()) == last

    open_filter = filter_again(unfiltered, Thresholds(0.0, 0.0, 0.0, 1.0))
    strict = filter_again(unfiltered, Thresholds(1.0, 1.0, 1.0, 0.6))
    assert len(open_filter.dropped) < len(strict.dropped)


def test_only_experts_whose_files_are_here_are_offered(monkeypatch):
    monkeypatch.setattr(registry, "missing_assets", lambda name: ["x"] if name == "yolox" else [])
    assert "yolox" not in available_experts() and "pp-ocr" in available_experts()
