"""What must be protected, what is installed, what works and what 110 can hear: at any instant, over any period. Pure."""
