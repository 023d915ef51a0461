"""Neural networks, their loss, and the files that hold them."""
