"""One thread for every test: their tensors are tiny, and threads that wait for one another on a busy machine cost a hundred times more."""

import torch

torch.set_num_threads(1)
