"""The rules of ohsessions: pure functions and types, without Django, threads, logging or environment."""
