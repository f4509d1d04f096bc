"""Picture files: decoded safely, read by windows, written whole or not at all."""
