"""The programs that runtimes start: their watchdog, and the worker's side of it."""
