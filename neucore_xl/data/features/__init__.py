"""Features of images that some other network computed, by image name: what `backbone.features` reads."""
