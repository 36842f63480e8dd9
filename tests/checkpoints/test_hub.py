"""Without a hub, its client is not left to try again and again."""

import socket
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from monkeylib.checkpoints import hub, pretrained
from monkeylib.evaluation import hf_models
from monkeylib.raising.bases import require_base


@pytest.fixture()
def hub_at(monkeypatch):
    """Return a function that moves the hub to an address, for a client that is not offline."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def move(address):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        hub._is_reachable.cache_clear()

    yield move
    hub._is_reachable.cache_clear()


@pytest.fixture()
def closed_port():
    """Return the number of a port at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize(
    "load",
    [
        pretrained.load_tokenizer,
        lambda name: pretrained.load_language_model(name, 100),
        lambda name: hf_models.load_image_text_model(name, "cpu"),
    ],
    ids=["tokenizer", "language model", "evaluated model"],
)
def test_hub_out_of_reach_is_said_at_once(hub_at, closed_port, load):
    hub_at(f"http://127.0.0.1:{closed_port}")
    start = time.monotonic()
    with pytest.raises(OSError, match="hub|connect"):
        load("nobody/no-model")
    assert time.monotonic() - start < 10


def test_hub_that_answers_and_local_folders_are_left_to_the_client(
    hub_at, closed_port, tmp_path, monkeypatch
):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        hub_at(f"http://127.0.0.1:{server.getsockname()[1]}")
        hub.go_offline_if_unreachable("nobody/no-model")
        assert not constants.HF_HUB_OFFLINE

    hub_at(f"http://127.0.0.1:{closed_port}")
    hub.go_offline_if_unreachable(tmp_path)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:1")
    hub.go_offline_if_unreachable("nobody/no-model")
    assert not constants.HF_HUB_OFFLINE

    monkeypatch.delenv("HTTP_PROXY")
    hub._is_reachable.cache_clear()
    hub.go_offline_if_unreachable("nobody/no-model")
    assert constants.HF_HUB_OFFLINE


def test_model_named_as_on_a_hub_is_fetched_where_there_is_no_folder(hub_at, tmp_path, monkeypatch):
    fetched = []

    def fetch(name, allow_patterns):
        fetched.append(name)
        assert "*.safetensors" in allow_patterns and not {"*.py", "*.bin"} & set(allow_patterns)
        return str(tmp_path / "cache")

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    monkeypatch.setattr(hub, "go_offline_if_unreachable", lambda name: None)
    assert hub.fetch_model("owner/name") == tmp_path / "cache"

    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert hub.fetch_model("owner/name") == Path("owner/name")
    for path in (tmp_path / "gone", Path("gone"), Path("a/b/c"), Path("../gone")):
        assert hub.fetch_model(path) == path
    assert fetched == ["owner/name"]


def test_model_that_no_hub_gives_is_said_in_one_sentence(hub_at, closed_port):
    hub_at(f"http://127.0.0.1:{closed_port}")
    with pytest.raises(FileNotFoundError, match="no model hub gave a model of that name") as raised:
        hub.fetch_model("nobody/no-model")
    assert "\n" not in str(raised.value)
    assert "none is reachable from here" in str(raised.value)


def test_model_of_a_run_that_is_not_finished_is_not_looked_for_on_a_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "a" / "run"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    sentence = "no model in .*run, a training run that is not finished: run it again to go on"
    for name in (run / "model", "a/run/model"):
        for require in (hub.fetch_model, hf_models.require_model, require_base):
            with pytest.raises(FileNotFoundError, match=f"{sentence}$"):
                require(name)

    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "step-000002.ckpt").touch()
    monkeypatch.chdir(run.parent)
    with pytest.raises(FileNotFoundError, match=f"{sentence}, or .* `monkeylib convert run NEW_FOLDER`$"):
        hub.fetch_model("run/model")
    run.rename(run.parent / "my run")
    with pytest.raises(FileNotFoundError, match="`monkeylib convert 'my run' NEW_FOLDER`$"):
        hub.fetch_model("my run/model")
    assert hub.fetch_model(run / "modle") == run / "modle"  # left to whoever loads it
