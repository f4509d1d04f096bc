"""Other people's PyTorch files and tensor names, read without running code from them."""
