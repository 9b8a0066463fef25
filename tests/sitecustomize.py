"""What an interpreter that a test starts does first: it searches for garbage less often.

Of the 4.4 seconds of a processor that it takes to import what ``train.py`` imports, and to end, 1.8
go to such searches, which find nothing. Python runs this where ``tests/`` is on its path.
"""

import atexit
import gc

gc.set_threshold(100_000, 50, 50)
atexit.register(gc.freeze)  # before the modules are taken apart, with a search after each step
