"""What lowers the error most at the same size."""
