"""Act: the guided policy, from the tilt to the decoding core."""
