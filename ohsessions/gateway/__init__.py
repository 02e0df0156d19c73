"""The side of the clients: attaches them, stores their actions, delivers the log. Owns no session."""
