"""How the baselines are trained: policies by TRL, reward models of PARM by Lightning."""
