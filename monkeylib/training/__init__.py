"""Fine-tuning with Lightning.

`finetune` is a run from profile to checkpoint; `batches` encodes examples and divides them over devices;
`module` has the step, `optim` the learning rate of each component, `strategies` DDP and FSDP.
"""
