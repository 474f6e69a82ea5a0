"""What becomes int4, what does not, and why."""
