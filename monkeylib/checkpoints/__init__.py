"""Load and convert checkpoints: released ones, LLaVA-1.5, pretrained components, LoRA files of peft."""
