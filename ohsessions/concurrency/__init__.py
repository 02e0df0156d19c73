"""Threads, tasks, and values that they share. Nothing here knows Django or sessions."""
