"""What every room needs: errors, whole-or-nothing files, seeded randomness, progress."""
