"""Plans: the shards of images, in memory and listed, and which of an earlier run must be among them."""

import pytest
from PIL import Image

from monkeylib.captions.annotations import Record
from monkeylib.captions.input_images import InputImage, find_images, list_images
from monkeylib.captions.plan import Plan, require_earlier_images
from monkeylib.captions.record_files import commit_shard
from monkeylib.runs import RunDiffers


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "images"
    home.mkdir()
    for number in range(5):
        Image.new("RGB", (16, 10), (200, number, 9)).save(home / f"{number}.png")
    return home


def make(images, size=2) -> Plan:
    return Plan.make(images, [], size, lambda count, cached: None)


def test_listed_images_have_the_plan_of_those_in_memory(folder):
    in_memory, listed = make(find_images([folder])), make(list_images([folder]))
    assert in_memory.keys == listed.keys and [key.count for key in listed.keys] == [2, 2, 1]
    assert in_memory.images_digest == listed.images_digest
    assert listed.held is None and len(in_memory.held) == 3

    for plan in (in_memory, listed):
        assert [shard.key for shard in plan.shards()] == plan.keys
        assert [shard.key for shard in plan.shards({plan.keys[1].name})] == [plan.keys[1]]


def test_images_that_change_after_planning_are_refused(folder):
    plan = make(list_images([folder]))
    Image.new("RGB", (16, 10), (9, 9, 9)).save(folder / "3.png")
    with pytest.raises(ValueError, match="images were changed while the run was planned: run it again"):
        list(plan.shards())


def test_digest_is_of_names_contents_and_captions():
    def digest(name="a", colour=0, caption="b"):
        return make([InputImage(Image.new("RGB", (4, 4), (colour, 0, 0)), name, caption)]).images_digest

    assert digest() == digest()
    assert len({digest(), digest(name="c"), digest(colour=1), digest(caption="c")}) == 4


def test_images_with_records_must_be_planned_again(folder, tmp_path):
    shards, out = tmp_path / "shards", tmp_path
    shards.mkdir()
    images = find_images([folder])
    for shard in make(images).shards():
        records = [
            Record(name=image.name, width=16, height=10, sha256=digest)
            for image, digest in zip(shard.images, shard.sha256, strict=True)
        ]
        commit_shard(shards, shard, records)

    require_earlier_images(make(images), shards, out)
    require_earlier_images(make([*images, InputImage(Image.new("RGB", (4, 4)), "more")]), shards, out)

    with pytest.raises(RunDiffers, match="captions of 2 images .* the first: 0.png is missing"):
        require_earlier_images(make(images[2:]), shards, out)
    changed = [InputImage(images[1].image, images[0].name), *images[1:]]
    with pytest.raises(RunDiffers, match="of 1 images .* 0.png or its original caption has changed"):
        require_earlier_images(make(changed), shards, out)
