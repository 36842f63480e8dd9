"""Checkpoints of others: the released Monkey and Qwen-VL layout, and peft's files for the adapters."""
