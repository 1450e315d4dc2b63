"""What one setting brings: trained with every value and several seeds, evaluated alike, compared query by query."""
