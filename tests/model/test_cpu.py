"""The precision in which a CPU computes, and the memory of the system."""

import pytest
import torch
from torch import nn

from monkeylib.model import cpu


@pytest.fixture()
def speeds(monkeypatch):
    """Relative speeds that a test sets, by dtype."""
    speeds = {torch.float32: 1.0}
    monkeypatch.setattr(cpu, "relative_speed", lambda dtype: speeds[dtype])
    return speeds


def test_speed_is_relative_to_float32():
    assert cpu.relative_speed(torch.bfloat16) > 0
    assert cpu.relative_speed(torch.bfloat16) == cpu.relative_speed(torch.bfloat16), "measured once"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("speed", "available", "is_converted"),
    [
        (0.1, 10**12, True),
        (0.1, None, True),  # a system that does not tell
        (0.1, 1000, False),  # no room for float32
        (3.0, 10**12, False),  # faster as it is
    ],
)
def test_slow_precision_gives_way_to_float32_where_it_fits(
    monkeypatch, speeds, dtype, speed, available, is_converted
):
    speeds[dtype] = speed
    monkeypatch.setattr(cpu, "system_memory", lambda field: available)
    model = nn.Linear(100, 100).to(dtype)
    assert cpu.choose_dtype(model) == (torch.float32 if is_converted else dtype)


def test_float32_stays(speeds):
    assert cpu.choose_dtype(nn.Linear(2, 2)) == torch.float32


def test_memory_of_the_system_is_read(monkeypatch):
    total, available = cpu.system_memory("MemTotal"), cpu.system_memory("MemAvailable")
    assert total is None or 2**20 < available <= total

    def refuse(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(cpu.Path, "read_text", refuse)
    assert cpu.system_memory("MemTotal") is None
