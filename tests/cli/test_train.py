"""`monkeylib train`."""

from monkeylib import resources


def test_train_writes_the_default_checkpoint_of_answer(call, monkeypatch):
    from monkeylib.training import finetune

    trained = []

    def run(profile, folder, *_, **__):
        trained.append((profile.name, folder))
        return folder / "model"

    monkeypatch.setattr(finetune, "run", run)
    code, output, _ = call("train", "--profile", "smoke")

    assert code == 0 and output == "trained model: data/runs/smoke/monkey/model\n"
    assert trained == [("smoke", resources.runs("smoke") / "monkey")]
