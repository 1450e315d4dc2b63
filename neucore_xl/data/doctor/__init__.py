"""What is wrong with a folder of annotations and pictures."""
