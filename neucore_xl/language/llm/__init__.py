"""The fusion sequence, written by a large language model and never trusted unchecked."""
