"""What an operator types, and what they read in answer; one file for each command."""
