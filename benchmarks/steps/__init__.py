"""Time and memory of training steps, ours and others'."""
