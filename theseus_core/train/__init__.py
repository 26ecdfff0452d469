"""Training: one trainer for every family.

To read: `trainer` first, then `optim` (what a step does to the weights), `checkpoint` and `state` (what survives it), `journal`,
`distributed`; `tasks` is where a dataset, a family and the trainer meet.
"""
