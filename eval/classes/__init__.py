"""Classes of images: the labels that metrics class by class go by."""
