"""The training of the rivals: tuned policies, and the reward model of PARM."""
