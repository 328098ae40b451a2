"""What happens inside a training besides its steps: plain callbacks of transformers' Trainer.

They know no engine. One gives them its trainer, the rows it tokenised and its settings
(``multitask/runners/*/trainer.py``).
"""
