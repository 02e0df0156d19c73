"""The reference site: ohsessions with its console, from the environment."""
