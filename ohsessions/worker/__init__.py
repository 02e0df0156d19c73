"""Owning sessions: hosting their runtimes, putting them to sleep, taking over."""
