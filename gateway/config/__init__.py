"""What the operator wrote: read, checked, explained, and then never changed."""
