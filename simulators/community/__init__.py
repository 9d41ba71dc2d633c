"""A small community for the demo: who lives where stands in the demo command, what happens stands in scenario.toml."""
