"""A session as one HTML file for people without a kernel: no script is needed, and nothing comes from a network."""
