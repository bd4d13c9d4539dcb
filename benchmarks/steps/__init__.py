"""Time and memory of training steps, ours and others'."""

import os

# Before torch reads it: what is not counted by `torch.set_num_threads` is then of one thread, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
