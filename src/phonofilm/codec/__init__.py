"""Clips to latents and back: a video codec and an audio codec on one clock in seconds."""
