"""Random changes of whole batches of training images."""
