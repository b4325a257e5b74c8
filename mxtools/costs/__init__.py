"""What the nodes and modules of a graph cost: multiply-adds, and the memory of the values between them."""
