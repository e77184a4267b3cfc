"""The guided policy: the tilt, the models' caches, the decoder, and what people call."""
