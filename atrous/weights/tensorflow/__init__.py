"""TensorFlow's files and variable names, read without TensorFlow."""
