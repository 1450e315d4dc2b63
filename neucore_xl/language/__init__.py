"""Text to concepts and fusion sequences. Knows neither datasets nor networks."""
