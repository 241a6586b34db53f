"""What executes a model file: one module for each runtime, all behind `vision.runtime.base`."""
