"""Speaking with clients: attaching them, taking their actions, delivering the log. Owns no session."""
