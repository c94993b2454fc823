"""Links move bytes between devices and sessions; they know nothing of what the bytes mean."""
