"""Images on their way to a network, decoded beside it and quantised where it is, and features on their way back."""
