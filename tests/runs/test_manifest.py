"""The record of a run: what it holds, and which ones are refused."""

import subprocess

import pytest

from monkeylib import resources, runs
from tests.support.run_folders import changed, contents, open_run, write_run


def test_commit_of_a_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(resources, "REPOSITORY", tmp_path)
    assert "commit" not in runs.code_version()

    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "a.txt").write_text("1")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "first"], check=True)
    commit = runs.code_version()["commit"]
    assert len(commit) >= 7 and "dirty" not in commit

    (tmp_path / "a.txt").write_text("2")
    assert runs.code_version()["commit"] == f"{commit}-dirty"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"model": "nano"}',
        '{"kind": "training", "finished": true}',
        '{"kind": "training", "finished": true, "fingerprint": []}',
        '{"kind": "training", "finished": true, "fingerprint": {}, "files": ["../a"]}',
        '{"kind": "training", "finished": true, "fingerprint": {}, "files": ["/etc/passwd"]}',
        '{"kind": "training", "finished": true, "fingerprint": {}, "obsolete": ["a/../../b"]}',
        '{"kind": "training", "finished": true, "fingerprint": {}, "files": ["*/notes.txt"]}',
        '{"kind": "training", "finished": true, "fingerprint": {}, "files": [3]}',
        b"\xff\xfe\x00",
        '{"kind": "training", "finished": "no", "fingerprint": {}}',
        '{"kind": "training", "finished": true, "fingerprint": {}, "code": []}',
        '{"kind": "training", "finished": true, "fingerprint": {}, "code": {"torch": {"a": 1}}}',
        '{"kind": "training", "finished": true, "fingerprint": {}, "notes": 3}',
        '{"kind": "training", "finished": true, "fingerprint": {}, "created": 3}',
        '{"kind": "training", "finished": true, "fingerprint": {}, "files": ["*"]}',
        '{"kind": "training", "finished": true, "fingerprint": {}, "files": ["a.txt", "*/**"]}',
        '{"kind": "training", "finished": true, "fingerprint": {}, "obsolete": ["a/*.*"]}',
        pytest.param("[" * 100_000, id="deep list"),
        pytest.param(
            '{"kind": "training", "finished": true, "fingerprint": ' + '{"a":' * 700 + "1" + "}" * 701,
            id="deep fingerprint",
        ),
    ],
)
def test_damaged_manifest_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match="run.json is damaged or not the record of a run: name another"):
        open_run(tmp_path, fresh=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_failed_manifest_leaves_the_old_one(tmp_path, monkeypatch):
    write_run(tmp_path)
    before = contents(tmp_path)

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resources, "sync", full)
    with pytest.raises(OSError, match="No space"), open_run(tmp_path, changed(lr=1), fresh=True) as run:
        run.start()
    assert contents(tmp_path) == before
