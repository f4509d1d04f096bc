"""What makes training fast and lean on a CPU; the network does not know of it."""
