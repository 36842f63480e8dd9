import pytest
import torch

from monkeylib.raising import loading
from monkeylib.raising.model import RaisedModel
from tests.support.raised_models import raise_base, save_base, save_raised


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base") / "llava")


def test_folders_are_told_apart(base, tmp_path):
    raised = save_raised(tmp_path / "raised", base)
    assert loading.is_raised(raised) and not loading.is_raised(base)
    assert loading.may_be_raised(base) and not loading.may_be_raised(tmp_path)
    # "owner/name" beside a folder "owner" is a path.
    assert not loading.is_raised(tmp_path / "missing") and not loading.may_be_raised(tmp_path / "missing")


def test_base_is_raised_and_a_raised_folder_is_loaded(base, tmp_path):
    model, processor = loading.load(base, "1x2", torch.device("cpu"), torch.float64)
    assert isinstance(model, RaisedModel) and model.dtype == torch.float64
    assert processor.view_settings.grids.tiles == 2

    raise_base(base).save(tmp_path / "raised")
    model, processor = loading.load(tmp_path / "raised", device=torch.device("cpu"))
    assert model.raising_settings.base == str(base) and processor.view_settings.grids.tiles == 4
