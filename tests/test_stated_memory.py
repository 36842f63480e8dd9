"""The memory that cluster/README.md states: counting a step of the paper's model takes half a minute."""

import re

import pytest

from monkeylib import profiles, resources
from monkeylib.training import memory

README = resources.REPOSITORY / "cluster" / "README.md"
FSDP = {"strategy": "fsdp", "micro_batch_size": 2}
SCRIPTS_MEMORY = {  # script -> profile, training settings, examples at once and devices
    "one_node.sbatch": ("paper-896", FSDP, 2, 8),
    "single_gpu_qlora.sh": ("paper-896-qlora", {}, 1, 1),
}


@pytest.mark.parametrize("name", SCRIPTS_MEMORY)
def test_readme_states_the_estimated_memory(name):
    profile_name, settings, examples, devices = SCRIPTS_MEMORY[name]
    profile = profiles.load_profile(profile_name).with_training(**settings)
    batches = [memory.random_micro_batch(profile, examples)]
    estimate = memory.count_step(profile, batches, devices=devices)

    readme = README.read_text(encoding="utf-8")
    stated = re.search(rf"^\| `{re.escape(name)}` .*\| (\d+) GB", readme, re.MULTILINE)

    assert int(stated[1]) == round(estimate.peak / 1e9)
