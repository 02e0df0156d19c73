"""The rules of ohsessions, free of Django and of I/O: what may happen, when, and how it reads on the wire."""
