"""PyTorch for the tests; without PyTorch, a module that imports this one is skipped."""

import pytest

torch = pytest.importorskip("torch")
# oneDNN writes wrong kernel gradients of strided 1x1 convolutions, and past its buffer, for channels-last
# inputs of fewer than 8 channels, now and then: https://github.com/uxlfoundation/oneDNN/issues/6035
torch.backends.mkldnn.set_flags(False)
torch.set_num_threads(1)  # the models are tiny, and other tests run at the same time
