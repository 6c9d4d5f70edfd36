"""What is seen of a call: clock, memory, compiles, kernels, logits; and the device's own limits."""
