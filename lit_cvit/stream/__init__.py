"""A run of `fit`: the trainer, what happens before a run, checkpoints, and the way back into one."""
