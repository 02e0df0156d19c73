"""The rules of ohsessions, free of Django: which changes are allowed, when, and the form of each payload."""
