"""What a training run says of itself, and the warnings of libraries that it leaves out."""

import io
import re
import sys
import warnings

import pytest

from monkeylib import profiles
from monkeylib.data.records import BadRecord, Record
from monkeylib.profiles.build import build_processor
from monkeylib.training import finetune
from monkeylib.training.batches import TrainingData
from monkeylib.training.progress import report_lost_characters, without_wrong_warnings
from monkeylib.training.synthetic_records import synthetic_data

SMOKE = profiles.load_profile("smoke").with_training(steps=3, batch_size=2, micro_batch_size=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a run that was interrupted after a step and resumed, and what it wrote without a terminal."""
    folder = tmp_path_factory.mktemp("training") / "run"
    with pytest.MonkeyPatch.context() as patched, pytest.warns(UserWarning, match="is real") as caught:
        output = io.StringIO()
        patched.setattr(sys, "stderr", output)
        warnings.warn("this one is real", UserWarning, stacklevel=1)
        finetune.run(SMOKE, folder)
    return folder, output.getvalue().splitlines(), caught


def test_log_holds_device_data_and_folder_then_loss_rates_and_time(run):
    folder, (first, *lines), _ = run
    assert re.match(
        r"train on 1 x \w+: synthetic records, steps 1 to 3 of 2 rows each in micro-batches of 1", first
    )
    assert first.endswith(f"into {folder}")

    assert len(lines) >= 2
    assert re.match(r"step 1/3, train loss \d+\.\d+, .* rows/s, .* GiB, .* steps/s, \d+:\d\d left", lines[0])
    assert any(re.match(r"step 3/3, train loss \d+\.\d+, .*took \d+:\d\d", line) for line in lines)


def test_wrong_warnings_are_left_out(run):
    messages = [str(warning.message) for warning in run[2]]
    assert [message for message in messages if "LeafSpec" in message or "not resumable" in message] == []


def test_other_warnings_stay():
    with pytest.warns(UserWarning, match="something else"), without_wrong_warnings():
        warnings.warn("something else", UserWarning, stacklevel=1)


def test_tensorboard_holds_the_profile(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run[0] / "tensorboard")).Reload()
    plugin = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"training/lr" in plugin
    assert b"released" in plugin


def test_weights_and_biases_are_used_on_request_only(tmp_path, monkeypatch):
    requests = []
    monkeypatch.setattr(finetune, "WandbLogger", lambda *args, **options: requests.append(args) or True)
    for wandb in (False, True):
        finetune._loggers(tmp_path, wandb)
        assert len(requests) == wandb


def test_lost_characters_are_said_at_the_start(capsys):
    processor = build_processor(SMOKE)
    turns = [("What does it say?", "Größe"), ("what?", "a cat")]
    good = Record.from_turns("1", (), tuple(turns), "r", "r")

    class Records:
        def __len__(self):
            return 2

        def __getitem__(self, index):
            if index:
                raise BadRecord("broken")
            return good

    report_lost_characters(TrainingData(Records(), None, "digest"), processor)
    assert "no token for 'ö' (1), 'ß' (1): 1 of 4 prompts and answers lose" in capsys.readouterr().err
    report_lost_characters(TrainingData(Records(), None, "digest"), processor, is_silent=True)
    report_lost_characters(synthetic_data(SMOKE), processor)

    # Labels of which most cannot be written are an error, in every process.
    turns[1] = ("what?", "€5")
    good = Record.from_turns("1", (), tuple(turns), "r", "r")
    with pytest.raises(ValueError, match="2 of 2 answers hold characters that the model cannot write"):
        report_lost_characters(TrainingData(Records(), None, "digest"), processor, is_silent=True)
    assert capsys.readouterr().err == ""
