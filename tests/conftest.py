"""One thread for every test: with tiny tensors, threads that wait for one another on a busy machine cost a hundredfold."""

import torch

torch.set_num_threads(1)
