"""A hub that takes uploads, and has no network."""

import shutil
from pathlib import Path

import pytest


class HubUploads:
    """What was put on the hub.

    Attributes:
        folder: copy of the folder that was uploaded last.
        token: of its owner.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.token: str | None = None
        uploads = self

        class Api:
            def __init__(self, token: str | None = None) -> None:
                uploads.token = token

            def create_repo(self, repo_id: str, private: bool | None, exist_ok: bool) -> str:
                return f"hub/{repo_id}"

            def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> None:
                shutil.copytree(folder_path, uploads.folder)

        monkeypatch.setattr("huggingface_hub.HfApi", Api)
