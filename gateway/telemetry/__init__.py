"""What happened: counted for machines, written down for people."""
