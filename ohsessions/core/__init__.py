"""The rules of ohsessions, free of Django: which changes are allowed, when, and how they read on the wire."""
