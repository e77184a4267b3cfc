"""What MAVIS is compared with: MOD, rewarded soups and PARM, as guides of the same decoder."""
