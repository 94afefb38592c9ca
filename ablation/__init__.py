"""Finetune a GPT-2 as a classifier and compare design choices: what the two scripts are made of.

Each package imports only what stands before it: ``system``, ``config``, then ``data`` and
``classifier``, ``finetuning``, ``sweeps``, ``reports``.
"""
