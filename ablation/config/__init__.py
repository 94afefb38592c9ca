"""What can be asked for: options, the rules between them, the rows, the command line.

Nothing here imports PyTorch, so that ``--help`` and a wrong flag answer at once.
"""
