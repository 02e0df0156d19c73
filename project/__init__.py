"""The reference site: ohsessions with its console, configured by the environment."""
