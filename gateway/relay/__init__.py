"""From the engine's bytes to the client's: whole events, watched but not parsed."""
