"""For all tests."""

import signal
import threading

# A suite that a shell started in the background ignores Ctrl-C, and so would the processes that tests interrupt.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)
