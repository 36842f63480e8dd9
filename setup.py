"""What a wheel brings beside the code: files of the repository that the library reads.

They keep their place in the repository, and lie under the same names in `monkeylib/shipped` of a wheel, which
stands for the repository there (`monkeylib.resources`). An editable installation needs no copy.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SHIPPED = (
    # Notebook A2 shows them.
    "benchmarks/results/ray_workers.csv",
    "cluster/one_node.sbatch",
    "data/assets.toml",
    "data/models",
    "data/results/nano",
    "data/results/photographs",
    "data/results/scenes",
    "data/samples",
    "notebooks",
    "requirements.lock",
    # Notebook A1 compares with them.
    "tests/data/qwen.tiktoken.gz",
    "tests/goldens/a.png",
    "tests/goldens/b.png",
    "tests/goldens/lmm_896.json",
    "tests/goldens/lmm_896_expected.safetensors",
    "tests/goldens/lmm_896_weights.safetensors",
    "tests/goldens/train_step.json",
    "tests/goldens/train_step_expected.safetensors",
    "tests/goldens/vision_896.json",
    "tests/goldens/vision_896_expected.safetensors",
    "tests/goldens/vision_896_weights.safetensors",
)


def shipped_files() -> list[Path]:
    """Return the paths of the files that a wheel ships, relative to the repository."""
    files = []
    for name in SHIPPED:
        path = ROOT / name
        files += [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]

    # Not what editors, kernels and killed runs leave behind.
    relative = [file.relative_to(ROOT) for file in files]
    return sorted(path for path in relative if not any(part.startswith((".", "__")) for part in path.parts))


class BuildWithShippedFiles(build_py):
    """Build the package, then copy the shipped files into it."""

    def run(self) -> None:
        """Build the package."""
        super().run()
        if not self.editable_mode:
            for source, target in self._shipped_targets().items():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Return the paths of all files that are built."""
        return [*super().get_outputs(include_bytecode), *map(str, self._shipped_targets().values())]

    def get_source_files(self) -> list[str]:
        """Return the paths of all files that a source distribution needs."""
        return [*super().get_source_files(), *map(str, shipped_files())]

    def _shipped_targets(self) -> dict[Path, Path]:
        folder = Path(self.build_lib).resolve() / "monkeylib" / "shipped"
        return {ROOT / path: folder / path for path in shipped_files()}


setup(cmdclass={"build_py": BuildWithShippedFiles})
