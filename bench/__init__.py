"""What does the gateway cost? Commands that measure it and print tables."""
