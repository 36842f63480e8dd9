"""What a run trains: a Monkey of a profile, or a base of transformers that is raised."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from monkeylib.profiles import Profile, build, trainable
from monkeylib.profiles.raised import RaisedProfile
from monkeylib.training.module import MonkeyTraining
from monkeylib.training.raised import RaisedTrainee

AnyProfile = Profile | RaisedProfile


class Trainee(Protocol):
    """A model that a run trains.

    Attributes:
        module: class of the Lightning module.
    """

    module: type[MonkeyTraining]

    @property
    def inputs(self) -> list[Path]:
        """Folders that the run reads."""

    def require_start(self) -> None:
        """Check that there is something to start from, before anything is computed."""

    def build_processor(self) -> Any:
        """Build what encodes records."""

    def build_model(self, processor: Any) -> Any:
        """Build the model."""

    def set_trainable(self, model: Any) -> None:
        """Put the model into training mode, and freeze what does not train."""

    def save(self, module: MonkeyTraining, state: dict[str, Tensor], folder: Path) -> None:
        """Write the trained model into a folder that is new or empty."""


class MonkeyTrainee:
    """A Monkey.

    Args:
        profile: of the run.
    """

    module = MonkeyTraining

    def __init__(self, profile: Profile) -> None:
        self.profile = profile

    @property
    def inputs(self) -> list[Path]:
        """Folder of the base checkpoint, if there is one."""
        return [] if self.profile.base_checkpoint is None else [build.base_folder(self.profile)]

    def require_start(self) -> None:
        """Check that there is something to start from, before anything is computed."""
        build.require_start(self.profile)

    def build_processor(self) -> Any:
        """Build the processor of the profile."""
        return build.build_processor(self.profile)

    def build_model(self, processor: Any) -> Any:
        """Build the model of the profile, with the weights of its base."""
        return build.build_model(self.profile, processor)

    def set_trainable(self, model: Any) -> None:
        """Put the model into training mode, and freeze what the profile does not train."""
        trainable.set_trainable(model, self.profile)

    def save(self, module: MonkeyTraining, state: dict[str, Tensor], folder: Path) -> None:
        """Write the trained weights and the processor."""
        trainable.save_trained(module.model.eval(), state, module.processor, self.profile, folder)


def trainee_of(profile: AnyProfile) -> Trainee:
    """Return what a run of a profile trains."""
    return RaisedTrainee(profile) if isinstance(profile, RaisedProfile) else MonkeyTrainee(profile)
