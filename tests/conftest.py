import os

# Before torch looks: on a GPU training is in bf16, whose numbers are no one's to compare with.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch
from hypothesis import settings

# Several workers share the cores: with two threads each they would wait for each other.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
settings.register_profile("zeropoint", deadline=None, max_examples=50)
settings.load_profile("zeropoint")
