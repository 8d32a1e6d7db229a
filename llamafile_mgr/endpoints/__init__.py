"""A served model for as long as somebody needs it: started or joined, shared, ended with its last user."""
