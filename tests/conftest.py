"""The order of the tests, and the set-up of their processes. Shared fixtures: `tests.support.fixtures`."""

import gc
import signal

import pytest

LONGEST_FILES = (
    "test_smoke_series.py",
    "test_stated_results.py",
    "test_page_commands.py",
    "test_strategies.py",
    "test_grid.py",
    "test_killed.py",
    "test_memory.py",
    "test_distributed.py",
    "test_checkpointing.py",
    "test_series.py",
    "test_notebooks.py",
    "test_finetune.py",
    "test_families.py",
    "test_health.py",
    "test_position.py",
    "test_wheel.py",
    "test_export.py",
    "test_batches.py",
    "test_interrupted_runs.py",
    "test_transformers.py",
    "test_goldens.py",
    "test_released.py",
    "test_train_modes.py",
    "test_signals.py",
    "test_mixture.py",
    "test_repository.py",
    "test_auto_grids.py",
    "test_cases.py",
    "test_convert.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Load the shared fixtures, and let an interrupt reach the commands that tests start."""
    # A shell starts what it runs in the background with interrupts ignored, and every child inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    # What only hands tests out to other processes needs no fixtures: their imports take seconds, in which
    # these processes wait.
    hands_out = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    if not hands_out:
        # Collecting makes objects and drops few, and to look for garbage among those of PyTorch takes long.
        gc.disable()
        config.pluginmanager.import_plugin("tests.support.fixtures")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest files first: in parallel, the suite takes as long as the file that ends last."""

    def rank(item: pytest.Item) -> int:
        name = item.path.name
        return LONGEST_FILES.index(name) if name in LONGEST_FILES else len(LONGEST_FILES)

    items.sort(key=rank)


def pytest_collection_finish() -> None:
    """Look for garbage again, and no more among what imports and collection have left."""
    gc.freeze()
    gc.enable()
