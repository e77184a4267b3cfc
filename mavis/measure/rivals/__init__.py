"""The policies that MAVIS is compared with: mixtures, soups, reward models."""
