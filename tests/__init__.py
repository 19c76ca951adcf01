"""All tests, and the processes that tests start."""

import gc

gc.set_threshold(50_000, 20, 20)  # tracing makes many lasting objects: collection took a tenth of the time
