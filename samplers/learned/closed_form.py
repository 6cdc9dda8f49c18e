"""closed_form: to be written by its owner."""
