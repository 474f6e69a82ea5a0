"""The fused int4 products for CUDA, in Triton."""
