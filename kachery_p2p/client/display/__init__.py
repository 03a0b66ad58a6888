"""What a person sees: progress bars, notebook views, numbers with units."""
