"""Load and convert checkpoints: released ones, LLaVA-1.5, pretrained components, LoRA files of peft.

`loading` reads a folder of either layout; `key_map` maps the names of the released weights.
"""
