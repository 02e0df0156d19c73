"""Threads, tasks, and the news that they share. It knows neither Django nor sessions."""
