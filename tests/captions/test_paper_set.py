"""The paper's pipeline on the command line, with tiny weights and a chat server that fails."""

import json
import sys

import pytest
from PIL import Image

from monkeylib.captions.annotations import Record
from monkeylib.captions.experts import pretrained
from monkeylib.captions.record_files import read_records
from monkeylib.cli import app, caption
from tests.support import chat_server, tiny_experts

IMAGES = [tiny_experts.squares(80, 60, "red", "white"), tiny_experts.squares(40, 70, "blue")]


@pytest.fixture()
def server(monkeypatch):
    pytest.importorskip("openai")
    with chat_server.serving(monkeypatch) as served:
        yield served


@pytest.fixture()
def call(monkeypatch, tmp_path, capsys):
    """Call `monkeylib caption` with the paper's experts: (exit code, standard error, records)."""
    tiny_experts.blip2(tmp_path)
    tiny_experts.blip2_itm(tmp_path)
    tiny_experts.sam(tmp_path)
    tiny_experts.grit(tmp_path)
    tiny_experts.use_tiny_grit(monkeypatch, tmp_path)
    monkeypatch.setenv(pretrained.WEIGHTS, str(tmp_path))
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path / "outputs"))
    (tmp_path / "images").mkdir()

    def run_command(*more: str) -> tuple[int, str, list[Record]]:
        arguments = [
            *more,
            tmp_path / "images",
            "--out",
            tmp_path / "out",
            "--experts",
            "paper",
            "--composer",
            "chat",
        ]
        monkeypatch.setattr(sys, "argv", ["monkeylib", "caption", *map(str, arguments)])

        with pytest.raises(SystemExit) as end:
            app.main()

        return (
            end.value.code or 0,
            capsys.readouterr().err,
            list(read_records(tmp_path / "out" / "records.jsonl")),
        )

    run_command.images = tmp_path / "images"
    return run_command


def test_paper_pipeline_runs_from_images_to_captions(call, server):
    for name, image in zip("ab", IMAGES, strict=True):
        image.save(call.images / f"{name}.png")
    (call.images / "c.png").write_bytes(b"no image")
    Image.new("RGB", (3000, 1)).save(call.images / "d.png")
    server.script = [(429, {"Retry-After": "0.1"}, None), "garbage", "half"]
    code, errors, records = call()

    assert code == caption.FAILED_IMAGES and "c.png: " in errors
    assert [record.name for record in records] == ["a.png", "b.png", "c.png", "d.png"]
    for record in records[:2]:
        assert not record.failures and len(record.captions) == 1
        assert record.captions[0].text.upper() in record.detailed_caption.upper()
        everything = [*record.regions, *record.dropped]
        assert any(item.kind == "region" and item.expert == "grit" and item.text for item in everything)
        assert any(item.kind == "segment" and item.expert == "sam+blip2" for item in everything)
        assert all(region.match is not None and region.match > 0.4 for region in record.regions)
        assert all(item.value is not None for item in record.dropped)
        named = {item.expert: item for item in record.provenance}
        models = ("blip2", "grit", "sam+blip2", "pp-ocr", "blip2-itm", "chat")
        assert all(named[model].licence for model in models) and named["chat"].version == "a-model"

    assert {failure.stage for failure in records[2].failures} == {"read"}
    assert [failure.kind for failure in records[3].failures] == ["too-small"]

    prompts = {json.dumps(body["messages"]) for _, _, body in server.requests}
    assert len(prompts) == 2 and len(server.requests) == 5, "three failed attempts"

    num_requests = len(server.requests)
    (call.images / "d.png").unlink()
    IMAGES[1].save(call.images / "c.png")  # now a copy of b.png
    code, errors, _ = call()
    assert code == 2 and "--fresh" in errors, "an image is gone"

    code, errors, new_records = call("--fresh")
    assert code == 0 and len(server.requests) == num_requests
    assert [record.detailed_caption for record in new_records[:2]] == [
        r.detailed_caption for r in records[:2]
    ]
    assert new_records[2].detailed_caption == new_records[1].detailed_caption
