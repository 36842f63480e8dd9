"""`monkeylib convert`."""

from monkeylib.experiments import parity
from tests.support import released_files


def test_convert_round_trip_and_lora_export(call, tmp_path, monkeypatch):
    source = released_files.write(
        tmp_path / "source", released_files.golden_settings(), parity.released_weights()
    )
    code, output, errors = call("convert", source, tmp_path / "converted")

    assert (code, errors) == (0, "") and output.startswith("wrote ")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert call("convert", "~/converted", "~/back")[0] == 0

    before, after = (released_files.read(folder) for folder in (source, tmp_path / "back"))

    assert all(released_files.same(before[name], after[name]) for name in before)

    for folder, adapters in ((source, tmp_path / "a"), (tmp_path / "converted", tmp_path / "b")):
        assert call("convert", folder, adapters, "--to", "peft")[0] == 0
    file = "tile-3/adapter_model.safetensors"

    assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()

    code, _, errors = call("convert", source, tmp_path / "converted")

    assert code == 2 and "exists already" in errors and errors.count("\n") == 1
