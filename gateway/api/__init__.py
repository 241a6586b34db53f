"""The routes that reach an engine: what each reads from a body and rewrites in it."""
