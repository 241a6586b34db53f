"""From the name that a client used to the cluster that answers."""
