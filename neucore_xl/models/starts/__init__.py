"""Where queries start: what image, text and words give in closed form, and the search for the best of it."""
