"""The objectives that `mavis` is shipped with: plugins like any other, one file each."""
