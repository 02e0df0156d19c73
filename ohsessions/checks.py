"""System checks of the settings. They say what is wrong and what to write instead; nothing here repairs."""
