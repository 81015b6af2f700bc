"""Training loops: the codecs, the matcher, the denoiser. Each is resumed by the same command."""
