"""One pass over each set of images, from the source to a report, in any number of processes."""
