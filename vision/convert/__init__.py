"""From a trained model to a folder of the repository: export, precision, plan, validation."""
